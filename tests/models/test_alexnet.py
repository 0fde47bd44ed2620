from __future__ import annotations

import pytest
import torch
from torch import nn

from layerscope.config import MODELS
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.alexnet import AlexNet, alexnet
from layerscope.networks.layers import LayerMap


def test_the_sizes_are_those_of_the_experiments():
    with torch.device("meta"):
        model = alexnet((3, 32, 32), 100)
    weights = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)]
    assert weights == [(4096, 1024), (4096, 4096), (100, 4096)]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 192, 384, 256, 256]
    assert [m.stride for m in convolutions] == [(2, 2), *[(1, 1)] * 4]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 16), (3, 33, 47), (1, 28, 28)])
def test_shapes(shape):
    model = build(AlexNet(width=0.0625), shape, 5)
    assert model.eval()(torch.randn(2, *shape)).shape == (2, 5)


def test_layers_and_dropout():
    config = MODELS["alexnet"](width=0.0625)
    model = build(config, (3, 32, 32), 5)
    layers = LayerMap.from_model(model, torch.zeros(2, 3, 32, 32), unit=config.unit)
    assert layers.names == (*(f"conv{i}" for i in range(1, 6)), "fc1", "fc2", "final_linear")
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_too_small_images_are_refused():
    with pytest.raises(LayerscopeError, match="15x15 pixels are too small for an AlexNet"):
        alexnet((3, 15, 15), 10)
