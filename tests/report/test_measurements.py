from __future__ import annotations

import numpy as np
import pytest
from tests.report.growing import record

from layerscope.probes import WeightChange
from layerscope.report.measurements import measured, probe_figures
from layerscope.schedule import at, every

DISTANCE = "distance_from_initialisation"


def test_live_results_that_stop_before_the_last_checkpoint_give_way(tmp_path):
    """As runs of earlier versions have them, which did not measure where they ended."""
    run = record(tmp_path / "a", 60, steps_per_epoch=100)
    live = run.results(DISTANCE)
    run.replace_results(DISTANCE, live.isel(step=[0]))
    found = measured(run)[DISTANCE]
    assert found["step"].values.tolist() == [0, 60]
    np.testing.assert_allclose(found["relative_distance"], live["relative_distance"])


@pytest.mark.parametrize(
    ("steps", "kept", "expected"),
    [(5, None, [2, 4]), (5, [0], [1, 3, 4, 5]), (6, None, [2, 4, 6])],
    ids=["last interval is short", "stopped early", "whole"],
)
def test_changes_measured_live_are_kept_up_to_their_last_whole_interval(
    tmp_path, steps, kept, expected
):
    checkpoints = at(1, 3, 4)
    run = record(tmp_path / "a", steps, checkpoints=checkpoints, measure=every(2))
    if kept is not None:
        run.replace_results("weight_change", run.results("weight_change").isel(step=kept))
    assert measured(run)["weight_change"]["step"].values.tolist() == expected


def test_changes_of_every_step_stand_beside_those_between_checkpoints(tmp_path):
    probes = [WeightChange(), WeightChange(reduction="angle")]
    settings = {"probes": probes, "measure": every(1), "checkpoints": every(3)}
    run = record(tmp_path / "a", 10, steps_per_epoch=3, **settings)
    found = measured(run)
    for probe in probes:
        epochs, steps = found[probe.key], found[f"{probe.key}@steps"]
        assert epochs["step"].values.tolist() == [3, 6, 9, 10]
        assert steps["step"].values.tolist() == [3, 6, 9]  # whole epochs
        live = run.results(probe.key)["change"].values[:9].reshape(3, 3, -1)
        np.testing.assert_allclose(steps["change"], live.mean(1))
    figures = probe_figures(found)
    assert [figure.title for figure in figures[f"{probes[1].key}@steps"]] == ["Rotation at a step"]
    keys = [figure.key for drawn in figures.values() for figure in drawn]
    assert len(set(keys)) == len(keys)
    assert list(found)[:4] == [
        "weight_change",
        "weight_change,reduction=angle",
        "weight_change,reduction=angle@steps",
        "weight_change@steps",
    ]
