from __future__ import annotations

import numpy as np
import pytest
from tests.report.growing import record

from layerscope.report.measurements import measured
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
