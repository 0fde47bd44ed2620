"""Landscapes and gradient predictiveness of every layer, against the plain loops.

The plain loop of a landscape puts a layer's displaced weights into the model, evaluates it and
puts the trained ones back; that of predictiveness does one full forward and backward pass for every
layer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.timing import CLOCK, interleaved, seconds
from torch import Tensor

from layerscope.config import ResNet
from layerscope.functional.landscape import displaced, scaled_direction
from layerscope.models import build
from layerscope.networks.curvature import gradients
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.sharing import shared_loss
from layerscope.networks.task import Task
from layerscope.networks.variants import evaluate_variants

TASK = Task.classification()
SHAPE = (3, 16, 16)
POINTS = 21
LANDSCAPE = f"loss landscape of every layer of ResNet-18 / 8, {POINTS} x {POINTS}, 32 images"
PREDICTIVENESS = "gradient of every layer with the others updated, ResNet-18 / 8, 128 images"
HEADER = ("Layers", "plain, s", "shared, s", "ratio (quartiles)")


class Network:
    """A narrow ResNet-18 in eval mode, its convolutions and classifier, and a batch."""

    def __init__(self, n: int) -> None:
        torch.manual_seed(0)
        self.model = build(ResNet(18, width=1 / 8), SHAPE, 10).eval()
        self.batch = (torch.randn(n, *SHAPE), torch.randint(10, (n,)))
        layers = LayerMap.from_model(self.model, self.batch[0]).with_dimensions(2)
        self.groups = [tuple(layer.parameters) for layer in layers]
        self.own = unique_state(self.model)
        self.state = {name: tensor.clone() for name, tensor in self.own.items()}

    def loss(self) -> Tensor:
        return TASK.loss(TASK.forward(self.model, self.batch), self.batch)


class Landscapes(Network):
    def __init__(self) -> None:
        super().__init__(32)
        generator = torch.Generator().manual_seed(0)
        grid = np.linspace(-1, 1, POINTS).tolist()
        self.variants = []
        for names in self.groups:
            own = {name: self.state[name] for name in names}
            pair = (scaled_direction(own, generator), scaled_direction(own, generator))
            self.variants += [displaced(own, pair, (a, b)) for a in grid for b in grid]

    @torch.no_grad()
    def plain(self) -> list[float]:
        found = []
        for variant in self.variants:
            for name, tensor in variant.items():
                self.own[name].copy_(tensor)
            found.append(float(self.loss()))
            for name in variant:
                self.own[name].copy_(self.state[name])
        return found

    def shared(self) -> list[float]:
        found = evaluate_variants(self.model, self.variants, [self.batch], TASK)
        return found.losses.mean(1).tolist()


class Predictiveness(Network):
    def __init__(self) -> None:
        super().__init__(128)
        self.stepped = {name: tensor + 0.01 * tensor.sign() for name, tensor in self.state.items()}

    def plain(self) -> list[Tensor]:
        parameters = dict(self.model.named_parameters())
        found = []
        for names in self.groups:
            with torch.no_grad():
                for name, own in self.own.items():
                    own.copy_((self.state if name in names else self.stepped)[name])
            every = torch.autograd.grad(self.loss(), list(parameters.values()))
            by_name = dict(zip(parameters, every, strict=True))
            found += [by_name[name] for name in names]
        with torch.no_grad():
            for name, own in self.own.items():
                own.copy_(self.state[name])
        return found

    def shared(self) -> list[Tensor]:
        found: list[Tensor] = []
        with shared_loss(self.model, self.groups, self.batch, TASK, weights=self.stepped) as loss:
            for names in self.groups:
                value, leaves = loss({name: self.state[name] for name in names})
                found += gradients(value, leaves)
        return found


def _compare(
    title: str, workload: Landscapes | Predictiveness, rounds: int, replay, tables
) -> None:
    samples = interleaved(
        {"plain": lambda: seconds(workload.plain), "shared": lambda: seconds(workload.shared)},
        rounds,
    )
    replay(samples["shared"])
    ratios = np.asarray(samples["plain"]) / np.asarray(samples["shared"])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    row = (
        len(workload.groups),
        f"{np.median(samples['plain']):.2f}",
        f"{np.median(samples['shared']):.2f}",
        f"{median:.2f} ({low:.2f} to {high:.2f})",
    )
    tables.add(title, HEADER, row)


@pytest.mark.benchmark(group="landscape", timer=CLOCK.read)
def test_landscapes(replay, tables):
    workload = Landscapes()
    np.testing.assert_allclose(workload.shared(), workload.plain(), rtol=1e-4, atol=1e-6)
    _compare(LANDSCAPE, workload, 4, replay, tables)


@pytest.mark.benchmark(group="predictiveness", timer=CLOCK.read)
def test_predictiveness(replay, tables):
    workload = Predictiveness()
    for found, expected in zip(workload.shared(), workload.plain(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    _compare(PREDICTIVENESS, workload, 15, replay, tables)
