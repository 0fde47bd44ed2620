"""A learning rate that falls at plateaus: when, in a training, and after an interruption."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from tests.training.test_loop import assert_equal_runs

from layerscope.config import FCN, SGD, Plateau, RunConfig
from layerscope.config.rates import learning_rate, plateaus
from layerscope.errors import LayerscopeError
from layerscope.probes import GradientPredictiveness, measure
from layerscope.report.run_page import run_page
from layerscope.runs.manifest import rate_drops
from layerscope.runs.store import Run
from layerscope.training.loop import train
from layerscope.training.problem import restore
from reference import plateau as reference

OFTEN = RunConfig(
    model=FCN(1, 8),
    optimizer=SGD(0.125, momentum=0.5),
    schedule="plateau",
    plateau=Plateau(patience=0, threshold=0.25),
    decay=0.5,
    epochs=6,
    batch_size=500,
    probe_batch=32,
)
"""Falls wherever an epoch does not lower the test loss by a quarter."""


def made(config, path, **options):
    return train(config, path, accelerator="cpu", **options)


# When


@pytest.mark.parametrize(
    ("how", "losses", "expected"),
    [
        (Plateau(0, 0.0), [3, 2, 1], []),
        (Plateau(0, 0.0), [3, 2, 2, 3], [3, 4]),
        (Plateau(1, 0.0), [3, 4, 4, 4, 4, 2, 3, 3], [3, 5, 8]),
        (Plateau(1, 0.0), [3, 4, 2, 3, 1], []),  # in a row
        (Plateau(0, 0.1), [10, 9.5, 8.9, 8.5], [2, 4]),  # of the last better one, not of the last
        (Plateau(0, 0.0), [math.nan, math.inf, 3, math.nan], [1, 2, 4]),
        (Plateau(), [1.0] * 24, [12, 23]),
    ],
)
def test_when_the_rate_falls(how, losses, expected):
    assert plateaus(losses, how) == reference.epochs(losses, how) == expected


@given(
    st.lists(st.floats(0, 4, width=16) | st.sampled_from([1.0, math.nan, math.inf]), max_size=40),
    st.builds(Plateau, st.integers(0, 4), st.sampled_from([0.0, 1e-4, 0.1, 0.5])),
)
def test_the_rate_falls_when_torchs_does(losses, how):
    assert plateaus(losses, how) == reference.epochs(losses, how)


def test_the_rate_of_a_step_counts_the_drops_before_it():
    rates = [learning_rate(OFTEN, step, 3, (6, 9)) for step in (0, 5, 6, 8, 9, 17, 99)]
    assert rates == [0.125, 0.125, 0.0625, 0.0625, 0.03125, 0.03125, 0.03125]
    warm = replace(OFTEN, warmup=8)
    assert [learning_rate(warm, step, 3, (6,)) for step in (5, 6, 8)] == [
        0.125 * 6 / 8,
        0.0625 * 7 / 8,
        0.0625,
    ]


def test_without_a_run_the_rate_is_not_known():
    with pytest.raises(LayerscopeError, match=r"depends on .* test loss.*\n.*Run.learning_rate"):
        learning_rate(OFTEN, 0, 3)


# In a training


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(OFTEN, tmp_path_factory.mktemp("plateau") / "whole")


def test_a_run_is_that_of_a_plain_loop_with_torchs_scheduler(whole):
    weights, rates = reference.trained(OFTEN)
    assert len(set(rates)) > 2
    assert [whole.learning_rate(step) for step in range(len(rates))] == rates
    last = whole.checkpoint(whole.steps[-1])
    assert all(torch.equal(last[name], tensor) for name, tensor in weights.items())


def test_the_drops_follow_from_what_was_measured(whole):
    per_epoch, tested = whole.steps_per_epoch, whole.results("evaluation")
    assert tested["step"].values.tolist() == [per_epoch * e for e in range(1, OFTEN.epochs + 1)]
    losses = tested["test_loss"].values[:-1]  # at the end no rate is left to fall
    expected = [per_epoch * e for e in plateaus(losses, OFTEN.plateau)]
    assert list(rate_drops(whole.manifest)) == expected
    assert list(rate_drops(Run.open(whole.path).manifest)) == expected


def test_a_report_says_when_the_rate_fell(tmp_path):
    runs = [
        made(replace(OFTEN, plateau=how), tmp_path / f"{how.patience}")
        for how in (OFTEN.plateau, replace(OFTEN.plateau, patience=9))
    ]
    epochs = [step // runs[0].steps_per_epoch for step in rate_drops(runs[0].manifest)]
    expected = ("learning rate fell after epoch", f"{', '.join(map(str, epochs))}; none")
    assert expected in run_page(runs).facts
    assert not any("fell" in name for name, _ in run_page(runs[1:]).facts)


def test_every_epoch_is_tested_however_many_there_are(tmp_path):
    config = replace(OFTEN, epochs=53, batch_size=1500, checkpoints="at(1)")
    run = made(config, tmp_path / "run")
    assert run.results("evaluation")["step"].values.tolist() == list(range(1, 54))


def test_probes_take_the_rate_of_the_next_step_also_where_it_falls(tmp_path):
    """What is measured at the end of an epoch stands before the step at the lower rate."""
    config = replace(OFTEN, optimizer=SGD(4.0), decay=1 / 64, plateau=Plateau(0, 0.9), epochs=3)
    probe = GradientPredictiveness(batches=2)
    run = made(config, tmp_path / "run", probes=[probe])
    assert rate_drops(run.manifest)
    live = run.results(probe.key)
    offline = measure(probe, run, **restore(run).given)
    xr.testing.assert_allclose(live["parameters"], offline["parameters"], atol=1e-6)


# Interruptions


class StoppedError(Exception):
    """Ends a training from outside."""


LAST, FIRST = -1.0, 1e9
"""Seconds between two writings of the state: that of the last step, or of the beginning."""


@pytest.mark.parametrize(
    ("at", "seconds"), [*((at, LAST) for at in range(1, 19)), (7, FIRST), (18, FIRST)]
)
def test_a_run_that_stops_at_any_step_ends_in_the_same_bits(whole, tmp_path, at, seconds):
    def stop(done, total):
        assert total == 18
        if done == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(OFTEN, tmp_path / "cut", advance=stop, resume_seconds=seconds)
    assert Run.open(tmp_path / "cut").status == "interrupted"
    resumed = made(OFTEN, tmp_path / "cut")
    assert rate_drops(resumed.manifest) == rate_drops(whole.manifest)
    assert_equal_runs(resumed, whole)


def test_notes_that_came_further_than_the_state_are_taken_back(tmp_path):
    def stop(done, total):
        if done == 13:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(OFTEN, tmp_path / "cut", advance=stop, resume_seconds=FIRST)
    assert rate_drops(Run.open(tmp_path / "cut").manifest)
    seen = []

    def look(done, total):
        seen.append(rate_drops(Run.open(tmp_path / "cut").manifest))
        raise StoppedError

    with pytest.raises(StoppedError):
        made(OFTEN, tmp_path / "cut", advance=look)
    assert seen == [()]


def test_the_test_losses_are_needed_to_resume(tmp_path):
    def stop(done, total):
        if done == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(OFTEN, tmp_path / "cut", advance=stop, resume_seconds=LAST)
    for part in (tmp_path / "cut" / "results" / "evaluation").glob("*.nc"):
        part.unlink()
    with pytest.raises(LayerscopeError, match="test loss of 0 epochs and is to resume after 3"):
        made(OFTEN, tmp_path / "cut")


# What is refused

BAD = {
    "milestones": ({"milestones": (1,)}, "which the plateau schedule does not follow"),
    "warm-up": ({"warmup": 19}, "warmup is 19 steps, and the run has 18"),
    "rising": ({"decay": 2.0}, "decay is 2.0, at which the plateau schedule .*\n.*below 1"),
    "zero": ({"decay": 0.0}, "decay is 0.0"),
    "not chosen": ({"schedule": "step"}, "plateau is given.*'step'.*\n.*schedule 'plateau'"),
    "cosine": ({"schedule": "cosine"}, "plateau is given.*'cosine'"),
    "unknown": ({"schedule": "plateaux"}, "Did you mean 'plateau'"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_settings_that_contradict_each_other_are_refused(settings, message, tmp_path):
    with pytest.raises(LayerscopeError, match=message):
        made(replace(OFTEN, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("patience", "threshold"), [(-1, 0.1), (1, 1.0), (1, -0.1), (1, math.nan)])
def test_impossible_plateaus_are_refused(patience, threshold):
    with pytest.raises(LayerscopeError, match="plateau has patience"):
        Plateau(patience, threshold)
