from __future__ import annotations

import numpy as np
import pytest
from tests.reference import change, convergence

from layerscope.errors import LayerscopeError
from layerscope.probes import Convergence, PathAndProgress, measure

TIMES = [0.0, 1.0, 2.0, 3.0]


@pytest.fixture
def layers(run, weights):
    """Every layer's weights as one array, at every checkpoint."""
    return [change.layers_of(now, run.layers.owner, len(run.layers)) for now in weights]


def test_curves_rates_and_half_times_are_those_of_the_plain_loop(run, layers):
    found = measure(Convergence(intervals=((0, 1), (1, 3), (0, 3))), run)
    distance = convergence.distance_to_final(layers)
    curve = convergence.curve(distance.tolist())
    np.testing.assert_allclose(found["curve"], curve, rtol=1e-5)
    half = convergence.settling_time(curve, TIMES, 0.5)
    np.testing.assert_allclose(found["half_time"], half, rtol=1e-4)
    for interval, (t1, t2) in {"0-1": (0, 1), "1-3": (1, 3)}.items():
        expected = convergence.rate(distance.tolist(), TIMES, t1, t2)
        np.testing.assert_allclose(
            found["rate"].sel(interval=interval), expected, rtol=1e-4, atol=1e-6
        )
    assert found["rate"].sel(interval="0-3").values.tolist() == [1 / 3] * 5


def test_path_progress_and_directness_are_those_of_the_plain_loop(run, layers):
    found = measure(PathAndProgress(), run)
    distance, path = convergence.distance_to_final(layers), convergence.path(layers)
    progress = distance[0] - distance
    np.testing.assert_allclose(found["path"], path, rtol=1e-5)
    np.testing.assert_allclose(found["progress"], progress, rtol=1e-4, atol=1e-6)
    expected = convergence.directness(path, progress)
    np.testing.assert_allclose(found["directness"], expected, rtol=1e-4, atol=1e-5)


def test_time_in_steps(run):
    epochs, steps = (measure(Convergence(time=time), run) for time in ("epoch", "step"))
    np.testing.assert_allclose(steps["half_time"], 2 * epochs["half_time"])
    assert (steps["half_time"].attrs["units"], epochs["half_time"].attrs["units"]) == (
        "steps",
        "epochs",
    )


def test_an_interval_that_is_no_checkpoint_lists_those_there_are(run):
    with pytest.raises(LayerscopeError, match=r"no checkpoint at time 0.5; there are \[0.0, 1.0"):
        measure(Convergence(intervals=((0, 0.5),)), run)
    with pytest.raises(LayerscopeError, match=r"interval \(2, 1\) is empty"):
        measure(Convergence(intervals=((2, 1),)), run)


def test_epochs_of_unknown_length(run):
    run.manifest["steps_per_epoch"] = None
    with pytest.raises(LayerscopeError, match="does not say how many steps an epoch has"):
        measure(Convergence(), run)


@pytest.mark.parametrize("probe", [Convergence(), PathAndProgress()])
def test_one_checkpoint_is_not_enough(run, probe):
    with pytest.raises(LayerscopeError, match="need at least the initialisation and one later"):
        measure(probe, run, steps=[2])


def test_keys_and_figures(run):
    probe = Convergence(intervals=((0, 1),), time="step")
    assert probe.key == "convergence,intervals=[[0,1]],time=step"
    assert probe.slug == "convergence-intervals-0-1-time-step"
    for probe in (Convergence(intervals=((0, 1), (0, 3))), PathAndProgress()):
        keys = [figure.key for figure in probe.figures(measure(probe, run))]
        assert len(set(keys)) == len(keys) == 3


@pytest.mark.parametrize("probe", [Convergence(), PathAndProgress()])
def test_the_result_says_which_step_it_counts_from(run, probe):
    assert measure(probe, run).attrs["initial_step"] == 0
    assert measure(probe, run, steps=[4, 6]).attrs["initial_step"] == 4
    (run.path / "checkpoints" / "000000000.safetensors").unlink()
    for _ in range(2):  # measured, then read back
        assert measure(probe, run).attrs["initial_step"] == 2


@pytest.mark.parametrize("probe", [Convergence(), PathAndProgress()])
def test_without_checkpoint_0_the_first_there_is_is_the_start(run, layers, probe):
    (run.path / "checkpoints" / "000000000.safetensors").unlink()
    found = measure(probe, run)
    if isinstance(probe, Convergence):
        expected = convergence.curve(convergence.distance_to_final(layers[1:]).tolist())
        np.testing.assert_allclose(found["curve"], expected, rtol=1e-5)
    else:
        np.testing.assert_allclose(found["path"], convergence.path(layers[1:]), rtol=1e-5)
