from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.cases import CNN, FCN
from tests.report.growing import record
from tests.training_loop import train
from tests.zoo.examination import PROBES as EVERY
from torch import nn

from layerscope.config import MODELS, ResidualFCN, ResNet, RunConfig, Sine
from layerscope.errors import LayerscopeError
from layerscope.figures.matplotlib import png
from layerscope.probes import (
    PROBES,
    DistanceFromInitialisation,
    GradientMagnitude,
    LinearisationCost,
    LinearShare,
    Preactivations,
    measure,
)
from layerscope.report.measurements import measured
from layerscope.report.publish import save_figures, write_report
from layerscope.report.run_page import run_page
from layerscope.runs.store import Run
from layerscope.schedule import every
from layerscope.training import loop
from layerscope.training.problem import restore

DISTANCE = "distance_from_initialisation"


def texts(page):
    return [finding.text for finding in page.findings]


def test_a_run_that_ends_within_an_epoch_is_judged_by_its_end(tmp_path):
    run = record(tmp_path / "a", 60, steps_per_epoch=100)
    page = run_page([run])
    assert not any("barely" in text or "as of" in text for text in texts(page))
    live, checkpoints = measured(run)[DISTANCE], measure(DistanceFromInitialisation(), run)
    np.testing.assert_allclose(live["relative_distance"], checkpoints["relative_distance"])
    assert float(live["relative_distance"].isel(step=-1).min()) > 100


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


@pytest.mark.parametrize("live", [True, False])
def test_what_activations_do_is_said_live_or_from_checkpoints(tmp_path, live):
    inside = {"measure": every(1), "checkpoints": every(1), "task": CNN.task}
    probes = [LinearShare(), Preactivations()] if live else []
    train(CNN, 2, path=tmp_path / "a", batch=CNN.batch(0), probes=probes, **inside)
    run = Run.open(tmp_path / "a")
    given = {"model": CNN.model(), "task": CNN.task}
    for probe in () if live else (LinearShare(), Preactivations()):
        measure(probe, run, batch=CNN.batch(0), **given)
    measure(LinearisationCost(), run, batch=CNN.batch(0), data=[CNN.batch(1)], **given)
    found = " ".join(texts(run_page([run])))
    for words in (
        "does a straight line explain 99%",
        "of what enters",
        "removing the nonlinearity",
    ):
        assert words in found


SMALL = RunConfig(epochs=2, batch_size=512, probe_batch=64)
NETWORKS = {
    "images": replace(SMALL, model=ResNet(depth=18, width=1 / 16, stages=(1, 2))),
    "chain": replace(SMALL, model=MODELS["fcn"](2, 8, bias=False)),
    "one input": replace(SMALL, model=ResidualFCN(blocks=2, width=8), data=Sine(n_train=1024)),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """For each network two seeds, and the probes that apply, measured in no special order."""
    found = {}
    for name, config in NETWORKS.items():
        folder, measured = tmp_path_factory.mktemp("everything"), set(PROBES)
        runs = [loop.train(replace(config, seed=s), folder / str(s)) for s in range(2)]
        for run in runs:
            given = restore(run).given
            for probe in sorted(EVERY, reverse=True):
                try:
                    measure(EVERY[probe], run, **given)
                except LayerscopeError:
                    measured.discard(probe)
        found[name] = runs, measured
    return found


@pytest.mark.slow
def test_every_probe_applies_to_one_of_the_networks(everything):
    assert set.union(*(measured for _, measured in everything.values())) == set(PROBES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_every_probe_that_was_measured_has_its_section_in_order(everything, tmp_path, name, seeds):
    runs, measured = everything[name]
    page = run_page(runs[:seeds])
    expected = [probe.heading for name, probe in PROBES.items() if name in measured]
    assert [section.title for section in page.sections] == expected
    keys = [figure.key for figure in page.figures()]
    assert len(set(keys)) == len(keys)
    assert write_report(runs[:seeds], tmp_path / "r.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_figure_can_be_saved(everything, tmp_path, name):
    figures = run_page(everything[name][0]).figures()
    if name == "images":  # which has most of them
        assert len(save_figures(figures, tmp_path)) == 2 * len(figures)
    else:
        assert all(png(figure, dpi=40) for figure in figures)


@pytest.mark.slow
def test_a_probe_without_a_heading_stands_under_its_summary(everything, monkeypatch):
    runs, _ = everything["images"]
    monkeypatch.setattr(PROBES["gradient_magnitude"], "heading", "")
    titles = [section.title for section in run_page(runs[:1]).sections]
    assert "mean absolute gradient on the fixed batch" in titles
