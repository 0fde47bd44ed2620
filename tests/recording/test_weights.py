from __future__ import annotations

import math

import pytest
import torch
from tests.cases import CNN, FCN, TIED
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.recording.weights import Live, misfits, not_finite, refuse_misfits


@pytest.mark.parametrize("case", [FCN, CNN, TIED], ids=lambda case: case.name)
def test_live_weights_are_those_of_the_state_with_tied_ones_once(case):
    model = case.model()
    layers = case.map(model)
    live = Live(model, layers.aliases)
    expected = {k: v for k, v in model.state_dict().items() if k not in layers.aliases}
    assert set(live) == set(expected)
    assert len(live) == len(expected)
    for name, tensor in expected.items():
        assert torch.equal(live[name], tensor)
        assert live[name].data_ptr() == tensor.data_ptr()
    with pytest.raises(KeyError):
        _ = live["nothing"]


def test_layers_that_no_longer_fit_are_named_with_what_is_wrong():
    model = FCN.model()
    layers = FCN.map(model)
    assert misfits(layers, Live(model, {})) == {}
    model.output = nn.Linear(8, 5)
    model.layer1 = nn.Identity()
    found = misfits(layers, Live(model, {}))
    assert found == {
        "layer1": "there is no 'layer1.weight'",
        "output": "'output.weight' has shape (5, 8), not (3, 8)",
    }
    with pytest.raises(LayerscopeError, match="layer 'layer1' does not fit the model"):
        refuse_misfits(layers, model)


def test_the_first_parameter_that_is_not_finite_is_named_and_buffers_do_not_count():
    model = CNN.model()
    model[1].running_var.fill_(math.inf)
    assert not_finite(model) is None
    nn.init.constant_(model[4].bias, math.nan)
    assert not_finite(model) == "4.bias"
