import pytest
import torch

from layerscope.functional.similarity import layer_cosines


def test_cosine_of_every_layer():
    first = [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]), torch.tensor([1.0, 1.0])]
    second = [torch.tensor([[0.0, 2.0]]), torch.tensor([2.0]), torch.tensor([-2.0, -2.0])]
    found = layer_cosines(first, second, torch.tensor([0, 0, 1]), 2)
    # layer 0: (3, 0, 4) and (0, 2, 2): 8 / (5 * sqrt(8))
    assert found.tolist() == pytest.approx([8 / (5 * 8**0.5), -1])


def test_nothing_is_like_a_vanishing_vector():
    zero, one = [torch.zeros(2)], [torch.ones(2)]
    assert layer_cosines(zero, one, torch.tensor([0]), 1).tolist() == [0]


def test_infinite_gradients_are_not_hidden():
    bad, one = [torch.tensor([torch.inf, 0.0])], [torch.ones(2)]
    assert layer_cosines(bad, one, torch.tensor([0]), 1).isnan().all()
