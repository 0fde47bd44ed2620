"""What a run measures at every step while it trains: equal to checkpoints of every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerscope.config import FCN, SGD, Digits, RunConfig
from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, WeightChange, measure
from layerscope.studies.quantity import PerStep
from layerscope.studies.study import Study, gathered
from layerscope.training.loop import train

PROBES = (WeightChange(), WeightChange(reduction="angle"))
DENSE = RunConfig(
    model=FCN(2, 16),
    data=Digits(),
    optimizer=SGD(0.1, momentum=0.9),
    epochs=3,
    batch_size=300,
    checkpoints="every(1)",
)
LIVE = replace(DENSE, checkpoints="epochs(1)", live=tuple(p.expression for p in PROBES))


STUDY = Study(
    name="paper.fig0",
    title="",
    source="",
    summary="",
    reduction="",
    scale="smoke",
    variants={"a": LIVE},
    seeds=(0,),
    probes=(),
    claims=(),
    figures=lambda data: [],
    per_step=tuple(map(PerStep, PROBES)),
)


class StoppedError(Exception):
    """Ends a training from outside."""


def test_live_values_are_those_of_checkpoints_at_every_step(tmp_path):
    live = train(LIVE, tmp_path / "live", accelerator="cpu")
    dense = train(DENSE, tmp_path / "dense", accelerator="cpu")
    for probe in PROBES:
        found, expected = live.results(probe.key)["change"], measure(probe, dense)["change"]
        assert found["step"].values.tolist() == list(range(1, 16))
        np.testing.assert_array_equal(found.values, expected.values)
    ours, theirs = live.checkpoint(15), dense.checkpoint(15)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_interrupted_run_measures_every_step_once(tmp_path):
    whole = train(LIVE, tmp_path / "whole", accelerator="cpu")

    def stop(done, total):
        if done == 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(LIVE, tmp_path / "cut", accelerator="cpu", advance=stop, resume_seconds=0)
    cut = train(LIVE, tmp_path / "cut", accelerator="cpu")
    for probe in PROBES:
        np.testing.assert_array_equal(
            cut.results(probe.key)["change"], whole.results(probe.key)["change"]
        )


def test_a_study_has_means_over_the_steps_of_every_epoch(tmp_path):
    run = train(LIVE, tmp_path / "run", accelerator="cpu")

    found = gathered(STUDY, next(iter(STUDY.variants)), run)
    assert set(found) == {f"{probe.key}@steps" for probe in PROBES}
    for probe in PROBES:
        means = found[PerStep(probe).key]["change"]
        assert means["step"].values.tolist() == [5, 10, 15]
        assert means["epoch"].values.tolist() == [1.0, 2.0, 3.0]
        steps = run.results(probe.key)["change"].values.reshape(3, 5, -1)
        np.testing.assert_allclose(means, steps.mean(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [("weight_chang", "unknown probe"), ("convergence", "Convergence needs the finished run")],
)
def test_what_cannot_be_measured_live_is_refused_before_training(tmp_path, text, message):
    with pytest.raises(LayerscopeError, match=message):
        train(replace(LIVE, live=(text,)), tmp_path / "run", accelerator="cpu")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_probe_that_failed_on_the_way_is_an_error_of_its_run(tmp_path):
    run = train(LIVE, tmp_path / "run", accelerator="cpu")
    key = PROBES[0].key
    run.replace_results(key, run.results(key).isel(step=slice(7)))
    with pytest.raises(LayerscopeError, match="has weight_change of 7 of 15 steps"):
        gathered(STUDY, next(iter(STUDY.variants)), run)


def test_probes_that_also_look_at_the_start_are_averaged_over_steps_alone(tmp_path):
    probe = DistanceFromInitialisation()
    run = train(replace(LIVE, live=(probe.expression,)), tmp_path / "run", accelerator="cpu")
    found = gathered(replace(STUDY, per_step=(PerStep(probe),)), next(iter(STUDY.variants)), run)[
        PerStep(probe).key
    ]
    steps = run.results(probe.key)["rms_distance"].values
    assert len(steps) == 16
    np.testing.assert_allclose(found["rms_distance"], steps[1:].reshape(3, 5, -1).mean(1))
