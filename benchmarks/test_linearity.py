"""Effective linearity of all activations of a narrow ResNet-18.

What it costs to make each activation straight lines, against the plain loop of
`tests.reference.linearity_probes`, which copies the network, fits lines node by node and evaluates
all of it for every one; and what preactivations at every step add to a training loop, in forward
passes of their examples.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.loops import Loop
from benchmarks.timing import CLOCK, Overhead, interleaved, seconds
from tests.reference.linearity_probes import linearised_losses
from torch import nn

from layerscope.config import ResNet
from layerscope.models import build
from layerscope.networks.affine import with_lines
from layerscope.networks.sites import find_sites
from layerscope.networks.task import Task
from layerscope.probes import Preactivations
from layerscope.recording.recorder import Recorder
from layerscope.schedule import at, every

TASK = Task.classification()
SHAPE = (3, 16, 16)
EXAMPLES = 500
COST = (
    f"activations of ResNet-18 / 8 as straight lines, {EXAMPLES} images to fit: plain over shared"
)
COST_HEADER = (
    "Affine",
    "sites",
    "tested",
    "plain, s",
    "shared, s",
    "fit alone, s",
    "ratio (quartiles)",
)
STEPS = f"Preactivations of {EXAMPLES} images at every step, ResNet-18 / 8, batches of 128"
STEPS_HEADER = ("Mode", "bare ms", "recorded ms", "forward ms", "overhead %", "forward passes")


def network() -> nn.Module:
    torch.manual_seed(0)
    return build(ResNet(18, width=1 / 8), SHAPE, 10)


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, *SHAPE, generator=generator)
    return inputs, torch.randint(10, (EXAMPLES,), generator=generator)


class Costs:
    """A network that has seen some batches, and both ways to make its activations affine."""

    def __init__(self, cumulative: bool, batches: int) -> None:
        self.cumulative = cumulative
        loop = Loop(network(), SHAPE)
        for _ in range(20):
            loop.step()
        self.model = loop.model.eval()
        self.weights = {n: t.clone() for n, t in self.model.state_dict().items()}
        self.batch, self.data = images(1), [images(2 + i) for i in range(batches)]
        self.names = [site.name for site in find_sites(self.model, self.batch[0][:2])]

    def plain(self) -> list[float]:
        given = (self.model, self.names, self.batch, self.data, TASK, self.cumulative)
        return [loss for loss, _ in linearised_losses(*given)]

    def fit(self):
        return with_lines(self.model, self.weights, self.batch, TASK, self.names)[0]

    def shared(self) -> list[float]:
        return self.fit().evaluated(self.data, TASK, self.cumulative).losses.mean(1).tolist()


def quartiles(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


@pytest.mark.benchmark(group="linearisation cost", timer=CLOCK.read)
@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("cumulative", [False, True], ids=["one", "all up to each"])
def test_linearisation_cost(cumulative, batches, replay, tables):
    work = Costs(cumulative, batches)
    np.testing.assert_allclose(work.shared(), work.plain(), rtol=1e-3)
    ways = {"plain": work.plain, "shared": work.shared, "fit": work.fit}
    samples = interleaved({name: partial(seconds, way) for name, way in ways.items()}, 3)
    replay(samples["shared"])
    row = ("all up to each" if cumulative else "one", len(work.names), batches * EXAMPLES)
    row += tuple(f"{np.median(samples[name]):.2f}" for name in ways)
    ratio = np.asarray(samples["plain"]) / np.asarray(samples["shared"])
    tables.add(COST, COST_HEADER, (*row, quartiles(ratio)))


@pytest.mark.benchmark(group="preactivations at every step", timer=CLOCK.read)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_preactivations(mode, replay, tables, tmp_path):
    bare, loop = Loop(network(), SHAPE), Loop(network(), SHAPE)
    batch = images(1)
    probes = [Preactivations(mode=mode)]
    options = {"task": TASK, "batch": batch, "measure": every(1), "checkpoints": at(0)}

    @torch.no_grad()
    def forward() -> None:
        TASK.forward(bare.model, batch)

    with Recorder(loop.model, tmp_path / "run", probes=probes, **options) as recorder:
        ways = {
            "bare": bare.step,
            "recorded": lambda: recorder.step(loss=loop.step()),
            "forward": forward,
        }
        samples = interleaved({name: partial(seconds, way) for name, way in ways.items()}, 30)
    replay(samples["recorded"])
    times = {name: np.asarray(values) for name, values in samples.items()}
    passes = (times["recorded"] - times["bare"]) / times["forward"]
    row = (mode, *(f"{1e3 * np.median(times[name]):.1f}" for name in ways))
    overhead = Overhead.of(samples["bare"], samples["recorded"])
    tables.add(STEPS, STEPS_HEADER, (*row, overhead, quartiles(passes)))
