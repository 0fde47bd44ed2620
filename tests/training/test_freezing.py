"""Layers that have settled are frozen: when, bit for bit, and again after an interruption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerscope.config import (
    FCN,
    SGD,
    VGG,
    CustomModel,
    Digits,
    FreezeWhenSettled,
    RunConfig,
)
from layerscope.errors import LayerscopeError
from layerscope.probes import TrainingCost, WeightChange, measure
from layerscope.runs.manifest import frozen_after
from layerscope.runs.store import Run
from layerscope.training.freezing import CRITERION, freezing_epochs, shuffled
from layerscope.training.loop import train
from layerscope.training.problem import restore

HOW = FreezeWhenSettled(threshold=0.2, patience=2, relative=False)
SMALL = RunConfig(
    model=FCN(3, 16),
    data=Digits(),
    optimizer=SGD(0.1, momentum=0.9, weight_decay=1e-3),
    epochs=8,
    batch_size=64,
    freeze_when_settled=HOW,
)


def made(config, path, **options):
    return train(config, path, accelerator="cpu", **options)


def changes(*columns):
    return np.array(columns, float).T


SETTLES, EARLY, NEVER = [0.9, 0.2, 0.05, 0.05, 0.05], [0.05] * 5, [1.0, 0.6, 0.4, 0.3, 0.4]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (FreezeWhenSettled(0.1, relative=False, patience=1), [3, 1, 0]),
        (FreezeWhenSettled(0.1, relative=False, patience=2), [4, 2, 0]),
        (FreezeWhenSettled(0.1, relative=False, patience=4), [0, 4, 0]),
        (FreezeWhenSettled(0.5), [3, 0, 4]),
        (FreezeWhenSettled(0.1, relative=False, in_order=True), [4, 4, 0]),
    ],
)
def test_when_layers_are_frozen(how, expected):
    assert freezing_epochs(changes(SETTLES, EARLY, NEVER), how).tolist() == expected


def test_a_frozen_layer_keeps_the_weights_of_that_moment_bit_for_bit(tmp_path):
    run = made(SMALL, tmp_path / "run")
    frozen = frozen_after(run.manifest)
    assert frozen
    assert len(frozen) < len(run.layers)
    for name, step in frozen.items():
        for parameter in run.layers[name].parameters:
            kept = run.checkpoint(step)[parameter]
            before = run.checkpoint(step - run.steps_per_epoch)[parameter]
            assert not torch.equal(kept, before)
            for later in (s for s in run.steps if s > step):
                assert torch.equal(run.checkpoint(later)[parameter], kept)
    going = [layer for layer in run.layers if layer.name not in frozen]
    a, b = run.checkpoint(run.steps[-2]), run.checkpoint(run.steps[-1])
    assert all(not torch.equal(a[n], b[n]) for layer in going for n in layer.parameters)


def test_until_the_first_is_frozen_nothing_differs(tmp_path):
    run = made(SMALL, tmp_path / "run")
    plain = made(replace(SMALL, freeze_when_settled=FreezeWhenSettled()), tmp_path / "plain")
    first = min(frozen_after(run.manifest).values())
    for step in run.steps:
        ours, theirs = dict(run.checkpoint(step)), dict(plain.checkpoint(step))
        equal = all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert equal == (step <= first)


def test_what_froze_follows_from_what_was_measured(tmp_path):
    run = made(SMALL, tmp_path / "run")
    values = measure(WeightChange(minimum_dimensions=1), run)["change"].values
    epochs = freezing_epochs(values, HOW)
    expected = {
        name: int(epoch) * run.steps_per_epoch
        for name, epoch in zip(run.layers.names, epochs, strict=True)
        if epoch
    }
    noted = frozen_after(run.manifest)
    assert {name: expected[name] for name in noted} == noted
    assert len(expected) - len(noted) <= 1  # one layer always goes on


class StoppedError(Exception):
    """Ends a training from outside."""


@pytest.mark.parametrize(("after", "seconds"), [(1, 0), (5, 0), (6, 1e9)])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, after, seconds):
    """Also one whose notes have come further than the state it resumes from, the beginning."""
    whole = made(SMALL, tmp_path / "whole")
    per_epoch = whole.steps_per_epoch

    def stop(done, total):
        if done == after * per_epoch + 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(SMALL, tmp_path / "cut", advance=stop, resume_seconds=seconds)
    assert Run.open(tmp_path / "cut").status == "interrupted"
    resumed = made(SMALL, tmp_path / "cut")
    assert frozen_after(resumed.manifest) == frozen_after(whole.manifest)
    ours, theirs = resumed.checkpoint(resumed.steps[-1]), whole.checkpoint(whole.steps[-1])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_was_measured_is_needed_to_resume(tmp_path):
    def stop(done, total):
        if done == 70:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(SMALL, tmp_path / "cut", advance=stop, resume_seconds=0)
    for part in (tmp_path / "cut" / "results" / CRITERION.key).glob("*.nc"):
        part.unlink()
    with pytest.raises(LayerscopeError, match=r"minimum_dimensions=1"):
        made(SMALL, tmp_path / "cut")


def test_a_layer_that_starts_at_zero_has_not_settled_for_that():
    moving = [np.inf, 0.9, 0.5, 0.4, 0.04, 0.03]
    found = freezing_epochs(changes(moving), FreezeWhenSettled(0.05))
    assert found.tolist() == [6]


class Scaled(torch.nn.Module):
    """A linear layer and a factor, which has no dimensions."""

    def __init__(self):
        super().__init__()
        self.flat, self.linear = torch.nn.Flatten(), torch.nn.Linear(64, 10)
        self.factor = Factor()

    def forward(self, x):
        return self.factor(self.linear(self.flat(x)))


class Factor(torch.nn.Module):
    """Multiplies by a learnt number."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.value * x


def scaled():
    return Scaled()


@pytest.mark.parametrize("threshold", [0.0, 0.99])
def test_a_parameter_without_dimensions_is_never_frozen(tmp_path, threshold):
    how = FreezeWhenSettled(threshold, relative=False, patience=1)
    model = CustomModel("tests.training.test_freezing:scaled")
    run = made(replace(SMALL, model=model, freeze_when_settled=how, epochs=2), tmp_path / "run")
    assert list(frozen_after(run.manifest)) == ["linear"] * (threshold > 0)


def test_one_layer_always_goes_on(tmp_path):
    how = FreezeWhenSettled(threshold=0.99, patience=1, relative=False)
    run = made(replace(SMALL, freeze_when_settled=how, epochs=3), tmp_path / "run")
    assert list(frozen_after(run.manifest)) == ["layer1", "layer2", "layer3"]


def test_only_the_layers_that_are_named_may_be_frozen(tmp_path):
    how = replace(HOW, threshold=0.99, layers=("layer2",))
    run = made(replace(SMALL, freeze_when_settled=how, epochs=3), tmp_path / "run")
    assert list(frozen_after(run.manifest)) == ["layer2"]
    wrong = replace(SMALL, freeze_when_settled=replace(how, layers=("lay",)))
    with pytest.raises(LayerscopeError, match=r"'lay' of freeze_when_settled\.layers matches no"):
        made(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "run.json").exists()


def test_a_control_freezes_the_same_layers_at_each_others_times(tmp_path):
    how = replace(HOW, threshold=0.2, patience=1)
    config = replace(SMALL, freeze_when_settled=how, seed=3)
    control = replace(config, freeze_when_settled=replace(how, at_random_times=True))
    run = made(control, tmp_path / control.hash)
    other = Run.open(tmp_path / config.hash)  # was trained on the way
    times, theirs = frozen_after(run.manifest), frozen_after(other.manifest)
    assert len(set(theirs.values())) > 1
    assert times == shuffled(theirs, 3)
    assert sorted(times.values()) == sorted(theirs.values())


def test_the_random_times_repeat_and_depend_on_the_seed():
    times = {f"layer{i}": i for i in range(8)}
    assert shuffled(times, 1) == shuffled(times, 1) != shuffled(times, 2)


def test_the_criterion_cannot_be_recorded_at_other_times(tmp_path):
    config = replace(SMALL, live=("weight_change(minimum_dimensions=1)",))
    with pytest.raises(LayerscopeError, match="to be recorded at other times"):
        made(config, tmp_path / "run")


def test_a_frozen_layer_costs_no_backward_pass(tmp_path):
    """Multiplications and additions of linear layers, counted by hand."""
    how = FreezeWhenSettled(threshold=0.99, patience=1, relative=False, layers=("layer1", "layer2"))
    run = made(replace(SMALL, freeze_when_settled=how, epochs=4), tmp_path / "run")
    assert frozen_after(run.manifest) == dict.fromkeys(("layer1", "layer2"), run.steps_per_epoch)
    found = measure(TrainingCost(), run, **restore(run).given)
    n = 512  # examples of the fixed batch
    sizes = [(64, 16), (16, 16), (16, 16), (16, 10)]
    product = [2 * n * a * b for a, b in sizes]
    assert float(found["forward"]) == sum(product)
    whole = 2 * sum(product) - product[0]  # of the inputs there is no gradient
    after = product[2] + 2 * product[3]  # layer3's own, and the output's with what reaches layer3
    assert found["backward"].values.tolist() == [whole, *[after] * 4]
    saved = 0.75 * (whole - after)
    assert float(found["backward_saved"]) == pytest.approx(saved / whole)
    assert float(found["saved"]) == pytest.approx(saved / (whole + sum(product)))
    assert found["frozen_after"].values[:2].tolist() == [1.0, 1.0]
    assert np.isnan(found["frozen_after"].values[2:]).all()
    assert [figure.key for figure in TrainingCost().figures(found)] == [
        "training-cost",
        "training-cost-frozen-after",
    ]


def test_statistics_of_normalisation_still_follow_the_data(tmp_path):
    config = RunConfig(
        model=VGG(11, True, 1 / 32, classifier="linear"),
        data=Digits(image_size=32),
        epochs=2,
        batch_size=512,
        freeze_when_settled=FreezeWhenSettled(0.99, relative=False, patience=1, layers=("conv1",)),
    )
    run = made(config, tmp_path / "run")
    (step,) = frozen_after(run.manifest).values()
    then, end = run.checkpoint(step), run.checkpoint(run.steps[-1])
    assert torch.equal(then["conv1.norm.weight"], end["conv1.norm.weight"])
    assert not torch.equal(then["conv1.norm.running_mean"], end["conv1.norm.running_mean"])


@pytest.mark.parametrize(("threshold", "patience"), [(-0.1, 1), (1.0, 1), (0.1, 0)])
def test_impossible_criteria_are_refused(threshold, patience):
    with pytest.raises(LayerscopeError, match="freeze_when_settled has threshold"):
        FreezeWhenSettled(threshold, patience=patience)
