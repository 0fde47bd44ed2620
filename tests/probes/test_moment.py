from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tests.cases import CNN, FCN

from layerscope.errors import LayerscopeError
from layerscope.probes import Moment, MomentProbe, Trajectory, TrajectoryProbe, measure
from layerscope.probes.base import Variable
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every

ASKED = ("previous", "initial", "final", "model", "task", "batch")


@pytest.mark.parametrize("name", ASKED)
def test_what_a_moment_was_not_given_is_named_where_it_is_asked_for(name):
    value = object()
    assert getattr(Moment(3, {}, **{name: value}), name) is value
    with pytest.raises(LayerscopeError, match=rf'asked for {name}, .*\n.*Name "{name}" in the ne'):
        getattr(Moment(3, {}), name)


def test_a_rate_that_is_not_known_says_how_to_give_one():
    assert Moment(3, {}, learning_rate=0.0).learning_rate == 0.0
    with pytest.raises(LayerscopeError, match=r"learning rate .* not known.*\n.*learning_rate=0.1"):
        _ = Moment(3, {}).learning_rate


@pytest.mark.parametrize("name", ["model", "task", "batch", "data", "training_data"])
def test_what_a_trajectory_was_not_given_is_named_where_it_is_asked_for(run, name):
    assert Trajectory(run, [0], **{name: 7}).factory is None
    assert getattr(Trajectory(run, [0], **{name: 7}), name) == 7
    with pytest.raises(LayerscopeError, match=f"asked for {name}"):
        getattr(Trajectory(run, [0]), name)


def test_moments_cannot_be_changed():
    moment = Moment(0, {})
    with pytest.raises(AttributeError):
        moment.step = 1
    with pytest.raises(AttributeError):
        moment.model = CNN.model()


@dataclass(frozen=True)
class Greedy(MomentProbe):
    """Declares the model and uses the task."""

    needs: ClassVar = frozenset({"model"})
    variables: ClassVar = {"one": Variable("one")}

    def select(self, layers):
        return layers

    def measure(self, moment, layers):
        return {"one": torch.ones(len(layers)) * (moment.task != moment.model)}

    def figures(self, dataset):
        return []


@dataclass(frozen=True)
class GreedyTrajectory(TrajectoryProbe):
    """Declares nothing and uses the data."""

    def select(self, layers):
        return layers

    def measure(self, context, layers):
        return context.data

    def figures(self, dataset):
        return []


def test_a_probe_cannot_use_what_it_does_not_declare(run, tmp_path):
    """Or its result would be read back though it was measured under other conditions."""
    with pytest.raises(LayerscopeError, match="asked for task"):
        measure(Greedy(), run, model=CNN.model(), task=CNN.task)
    with pytest.raises(LayerscopeError, match="asked for data"):
        measure(GreedyTrajectory(), run, data=[CNN.batch(0)])
    settings = {"task": FCN.task, "batch": FCN.batch(0), "measure": every(1), "strict": True}
    with (
        pytest.raises(LayerscopeError, match="greedy failed at step 0: the probe asked for task"),
        Recorder(FCN.model(), tmp_path / "a", probes=[Greedy()], checkpoints=every(1), **settings),
    ):
        pass
