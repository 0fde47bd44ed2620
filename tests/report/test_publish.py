from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CNN, FCN
from tests.training_loop import train
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange, measure
from layerscope.recording.recorder import Recorder
from layerscope.report.publish import measured, run_page, write_report
from layerscope.runs.store import Run
from layerscope.schedule import at, every

DISTANCE = "distance_from_initialisation"


def texts(page):
    return [finding.text for finding in page.findings]


def record(path, steps=6, model=None, fails=None, **options):
    """Record layers that grow by a tenth at every step, but those that are frozen."""
    model = FCN.model() if model is None else model
    settings = {"probes": [DistanceFromInitialisation(), WeightChange()]} | options
    with Recorder(model, path, **settings) as recorder:
        for step in range(steps):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1.1).add_(0.01)
            recorder.step()
            if step == fails:
                raise KeyboardInterrupt
    return recorder.run


def test_a_run_that_ends_within_an_epoch_is_judged_by_its_end(tmp_path):
    run = record(tmp_path / "a", 60, steps_per_epoch=100)
    page = run_page([run])
    assert not any("barely" in text or "as of" in text for text in texts(page))
    live, checkpoints = measured(run)[DISTANCE], measure(DistanceFromInitialisation(), run)
    np.testing.assert_allclose(live["relative_distance"], checkpoints["relative_distance"])
    assert float(live["relative_distance"].isel(step=-1).min()) > 100


def test_a_report_is_made_of_a_run_or_its_folder(tmp_path):
    run = record(tmp_path / "a", steps_per_epoch=2)
    pages = [
        write_report(given, tmp_path / f"{i}.html").read_text("utf-8")
        for i, given in enumerate((run, run.path, str(run.path), [run.path]))
    ]
    assert len(set(pages)) == 1
    for nothing, message in (([], "no run to report"), (tmp_path / "b", "b")):
        with pytest.raises(LayerscopeError, match=message):
            write_report(nothing, tmp_path / "none.html")


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


@pytest.mark.parametrize("total", [10, None])
def test_an_interrupted_run_says_of_which_epoch_its_distances_are(tmp_path, total):
    options = {"steps_per_epoch": 2, "metadata": {"total_steps": total}, "measure": every(1)}
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "a", fails=4, **options)
    page = run_page([Run.open(tmp_path / "a")])
    expected = "as of epoch 2.5" + " of 5" * (total is not None)
    assert texts(page)[0].endswith(f", {expected}.")
    assert page.table.caption.endswith(f" Distances are {expected}.")


def test_a_run_without_its_initialisation_has_a_page_that_says_so(tmp_path):
    run = record(tmp_path / "a", checkpoints=every(2), measure=every(2), probes=[])
    (run.path / "checkpoints" / "000000000.safetensors").unlink()
    page = run_page([run])
    assert page.notices == (
        "a: the checkpoints at steps 0 are gone.",
        "a: no checkpoint at step 0: distances count from step 2.",
    )
    assert page.lead.key == "convergence-time-step"
    assert "distance" not in {column.name for column in page.table.columns}
    assert write_report(run, tmp_path / "r.html").exists()


def test_a_probe_that_failed_is_a_notice(tmp_path):
    inputs, labels = FCN.batch(0)
    inputs[0, 0] = float("nan")
    options = {"measure": every(2), "checkpoints": every(2), "task": FCN.task}
    layers = FCN.map(FCN.model())
    probes = [GradientMagnitude()]
    run = record(tmp_path / "a", batch=(inputs, labels), layers=layers, probes=probes, **options)
    assert run_page([run]).notices == (
        "a: gradient_magnitude failed at step 0 and was left out from then on: "
        "gradient_magnitude of layer 'layer1' is not a number at step 0: its weights or gradients "
        "are not finite.",
    )


def test_layers_without_a_value_are_a_notice(tmp_path):
    train(CNN, 2, path=tmp_path / "a", measure=every(1), checkpoints=every(1))
    run = Run.open(tmp_path / "a")
    found = measure(GradientMagnitude(), run, model=CNN.model(), task=CNN.task, batch=CNN.batch(0))
    why = ["", "it is unused", "it is unused", "", "it is odd"]
    run.replace_results(
        "gradient_magnitude@checkpoints", found.assign_coords(missing=("layer", why))
    )
    assert run_page([run]).notices == (
        "gradient_magnitude was not measured for 1, 4 (it is unused); 9 (it is odd).",
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_frozen_layers_and_those_that_start_at_zero_have_a_page(tmp_path, seeds):
    def run(seed):
        model = FCN.model(seed)
        model.layer1.requires_grad_(False)
        for parameter in model.layer2.parameters():
            nn.init.zeros_(parameter)
        schedules = {"measure": every(1), "checkpoints": every(1)}
        return record(tmp_path / str(seed), model=model, **schedules)

    runs = [run(seed) for seed in range(seeds)]
    page = run_page(runs)
    assert "layer1 is not trained." in texts(page)
    (zero,) = (text for text in texts(page) if "started at zero" in text)
    assert zero.startswith("layer2 started at zero")
    assert zero.endswith("it ended at RMS 0.0772.")  # 0.1 (1.1^6 - 1)
    assert not any("layer1" in text and "not trained" not in text for text in texts(page))
    notes = [row[-1].text for row in page.table.cells()]
    assert notes == ["not trained", "started at zero", "\N{EN DASH}"]
    assert write_report(runs, tmp_path / "r.html").exists()
