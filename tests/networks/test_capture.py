import pytest
import torch
from tests.cases import CASES
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.capture import capture
from layerscope.networks.task import Task


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.relu(self.first(x)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 0, 1, 1])


def test_values_and_gradients_by_hand(batch):
    model, task = InPlace(), Task.classification()
    found = capture(model, batch, task, ["first", "last"])
    hidden = (batch[0] @ model.first.weight.T + model.first.bias).detach().requires_grad_()
    outputs = model.last(hidden.relu())
    outputs.retain_grad()
    task.loss(outputs, batch).backward()
    torch.testing.assert_close(found["first"].inputs[0], batch[0])
    torch.testing.assert_close(found["first"].outputs[0], hidden.detach())
    torch.testing.assert_close(found["first"].output_gradients[0], hidden.grad)
    torch.testing.assert_close(found["last"].output_gradients[0], outputs.grad)
    assert (found["first"].outputs[0] < 0).any(), "the ReLU must not have overwritten it"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_model_is_left_as_found(case, training):
    model = case.model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    leaves = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name and "out_proj" not in name
    ]
    found = capture(model, case.batch(0), case.task, leaves, training=training)
    assert set(found) == set(leaves)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_other_weights_can_be_used(batch):
    model = InPlace()
    zeros = {"first.weight": torch.zeros(4, 3), "first.bias": torch.ones(4)}
    found = capture(model, batch, Task.classification(), ["first"], weights=zeros)
    assert torch.equal(found["first"].outputs[0], torch.ones(5, 4))


def test_a_module_called_twice_has_two_entries(batch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(self.inner(x))

    found = capture(Twice(), batch, Task.classification(), ["inner"])
    assert len(found["inner"].outputs) == len(found["inner"].output_gradients) == 2


def test_unknown_modules_are_named(batch):
    with pytest.raises(LayerscopeError, match=r"'frist'(.|\n)*Did you mean 'first'"):
        capture(InPlace(), batch, Task.classification(), ["frist"])
