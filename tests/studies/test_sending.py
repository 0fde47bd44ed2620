"""What a study came to reaches sinks, and a sink that fails costs nothing else."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import xarray as xr
from tests.memory_sink import Memory
from tests.studies.test_study import STUDY

from layerscope import reproduce as reproduce_module
from layerscope.cli import main
from layerscope.figures.figure import Lines
from layerscope.studies.claims import Claim, Verdict
from layerscope.studies.sending import log_verdicts, send

CLAIMS = [
    (
        Claim("up", "It rises.", "Fig. 1", lambda _: None),
        Verdict("holds", "slope", 0.5, (0.25, 0.75), 3, 0.1, "A note."),
    ),
    (
        Claim("down", "It falls.", "Fig. 2", lambda _: None),
        Verdict("inconclusive", "slope", math.nan, None, 1),
    ),
]
FIGURE = Lines(
    xr.DataArray(np.arange(3.0), {"step": [0, 1, 2]}, ("step",), "x"), "rise", "Rise", hue=None
)


def test_verdicts_are_a_table_with_their_numbers():
    sink = Memory()
    log_verdicts(sink, CLAIMS)
    columns, rows = sink.tables["layerscope/verdicts"]
    first, second = (dict(zip(columns, row, strict=True)) for row in rows)
    assert first == {
        "claim": "up",
        "statement": "It rises.",
        "verdict": "holds",
        "statistic": "slope",
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "threshold": 0.1,
        "n": 3,
        "note": "A note.",
    }
    assert (second["value"], second["low"], second["high"]) == (None, None, None)


def test_a_study_starts_fills_and_finishes_its_sinks():
    sink = Memory()
    send([sink], STUDY, CLAIMS, [FIGURE])
    assert sink.calls == ["start", "table", "figure", "finish"]
    assert sink.tables.keys() == {"layerscope/verdicts", "layerscope/rise", "status"}
    assert sink.config["layerscope"] == {
        "study": "paper.fig0",
        "scale": "smoke",
        "source": "",
        "run": STUDY.folder,
        "seeds": [3, 5],
    }


def test_a_sink_that_fails_is_said_and_the_next_has_everything(caplog):
    broken, sound = Memory(breaks="table"), Memory()
    with caplog.at_level(logging.WARNING, "layerscope"):
        send([broken, sound], STUDY, CLAIMS, [FIGURE])
    assert [record.message for record in caplog.records] == [
        "Memory failed and is left out from then on: OSError: no space left"
    ]
    assert sound.tables["status"] == "complete"


@pytest.mark.slow
def test_reproducing_a_study_sends_its_verdicts(tmp_path):
    from layerscope.recipes import find

    sink = Memory()
    study = find("layer_convergence_bias.fig1a")("smoke", {}, (0,))
    found = reproduce_module.reproduce(study, tmp_path, processes=1, sinks=[sink])
    _, rows = sink.tables["layerscope/verdicts"]
    assert [row[0] for row in rows] == [claim.id for claim, _ in found.verdicts]
    pictures = {f"layerscope/{path.stem}" for path in (tmp_path / study.folder).rglob("*.png")}
    assert pictures == sink.tables.keys() - {"layerscope/verdicts", "status"}


def test_the_command_line_names_sinks(tmp_path, monkeypatch):
    seen = {}

    def instead(study, out, *, sinks, **rest):
        seen.update(study=study, sinks=sinks, out=out, rest=rest)
        return reproduce_module.Reproduction(xr.DataTree(), [], ())

    monkeypatch.setattr(reproduce_module, "reproduce", instead)
    words = ["run", "layer_convergence_bias.fig1a", "--scale", "smoke", "--out", str(tmp_path)]
    assert main([*words, "--sinks", "tensorboard", "mlflow", "wandb", "trackio"]) == 0
    names = [type(sink).__name__ for sink in seen["sinks"]]
    assert names == ["TensorBoard", "MLflow", "WandB", "Trackio"]
    assert main(words) == 0
    assert seen["sinks"] == []
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--sinks", "tensorbord"])
