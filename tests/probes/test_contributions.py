"""Contributions are those of the plain loops, and add up to the network's output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CNN, RESIDUAL, Case
from tests.reference import contributions as reference
from tests.training_loop import train
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.fcn import residual_fcn
from layerscope.networks.task import Task
from layerscope.probes import BlockContributions, measure
from layerscope.runs.store import Run

PROBE = BlockContributions(points=33)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(16, 1, generator=generator) - 2
    return x, torch.sin(3 * x).repeat(1, 2)


SINE = Case("sine", lambda: residual_fcn((1,), 2, 3, 8), batch, Task.regression(), ())


def recorded(case, path):
    train(case, 4, path=path, task=case.task, batch=case.batch(0), steps_per_epoch=2)
    return Run.open(path)


def test_contributions_are_those_of_the_plain_loops(tmp_path):
    run = recorded(SINE, tmp_path / "run")
    found = measure(PROBE, run, model=SINE.model(), task=SINE.task)
    model = run.load(SINE.model(), run.steps[-1]).eval()
    x = torch.linspace(float(batch(0)[0].min()), float(batch(0)[0].max()), 33)[:, None]
    with torch.no_grad():
        branches = [lambda z, b=block: b(z) - z for block in model.blocks]
        expected = reference.contributions(model.output, branches, model.input(x))
        output = model(x)
    np.testing.assert_allclose(found["contribution"], torch.stack(expected), atol=1e-5)
    np.testing.assert_allclose(found["contribution"].sum("layer"), output, atol=1e-5)
    np.testing.assert_allclose(found["x"], x[:, 0], rtol=1e-6)
    spread = torch.stack([(p.amax(0) - p.amin(0)).mean() for p in expected])
    np.testing.assert_allclose(found["range"], spread, rtol=1e-4)
    assert list(found["layer"].values) == ["blocks.0", "blocks.1", "blocks.2"]
    assert len(PROBE.figures(found)) == 3


def test_an_earlier_checkpoint_has_other_contributions(tmp_path):
    run = recorded(SINE, tmp_path / "run")
    first, last = (
        measure(BlockContributions(checkpoint=step), run, model=SINE.model(), task=SINE.task)
        for step in (0, None)
    )
    assert float(abs(first["contribution"] - last["contribution"]).max()) > 1e-3


class Activated(nn.Module):
    """A residual network with an activation after the last addition."""

    def __init__(self):
        super().__init__()
        self.inner = residual_fcn((1,), 2, 2, 8)
        self.blocks, self.output = self.inner.blocks, self.inner.output

    def forward(self, x):
        z = self.inner.input(x)
        for block in self.blocks:
            z = block(z).relu()
        return self.output(z)


def test_networks_without_such_parts_are_refused(tmp_path):
    case = Case("activated", Activated, batch, Task.regression(), ())
    run = recorded(case, tmp_path / "run")
    probe = BlockContributions(blocks="inner.blocks.*", readout="inner.output")
    with pytest.raises(LayerscopeError, match=r"do not add up to what 'inner\.output'"):
        measure(probe, run, model=case.model(), task=case.task)


def test_inputs_of_several_numbers_are_refused(run, tmp_path):
    with pytest.raises(LayerscopeError, match="no module matches the pattern"):
        measure(BlockContributions(), run, model=CNN.model(), task=CNN.task)
    other = recorded(RESIDUAL, tmp_path / "other")
    with pytest.raises(LayerscopeError, match="an input of one number"):
        measure(BlockContributions(), other, model=RESIDUAL.model(), task=RESIDUAL.task)
