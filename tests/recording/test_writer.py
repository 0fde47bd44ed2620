from __future__ import annotations

import pytest
import torch
from tests.cases import FCN

from layerscope.errors import LayerscopeError
from layerscope.recording.numbers import scalars
from layerscope.recording.writer import Writer
from layerscope.runs.store import Run


def record(writer):
    """Everything that a recorder asks of a writer."""
    model = FCN.model()
    writer.start(FCN.map(model), 2, {"seed": 3}, FCN.batch(0))
    writer.checkpoint(0, model.state_dict())
    writer.append([("training", scalars([(1, {"loss": 2.0})], 2))])
    writer.note_failures({"fragile": {"step": 1, "error": "it broke"}})
    writer.finish("complete", error="none")
    return model


def test_the_first_process_writes_what_it_is_given(tmp_path):
    writer = Writer(tmp_path / "a", 0)
    model = record(writer)
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps, run.manifest["seed"]) == ("complete", [0], 3)
    assert all(torch.equal(run.checkpoint(0)[n], v) for n, v in model.state_dict().items())
    assert torch.equal(run.batch[0], FCN.batch(0)[0])
    assert run.results("training")["loss"].values.tolist() == [2.0]
    assert run.manifest["notes"]["failed_probes"]["fragile"]["step"] == 1
    assert writer.run.path == run.path


def test_another_process_may_call_it_and_writes_nothing(tmp_path):
    writer = Writer(tmp_path / "a", 1)
    record(writer)
    assert not (tmp_path / "a").exists()
    assert writer.resume(FCN.map(FCN.model())) == {}
    writer.undo_start()
    with pytest.raises(LayerscopeError, match="of rank 1 does not record; rank 0 does"):
        _ = writer.run


def test_a_run_goes_on_with_the_failures_that_were_noted(tmp_path):
    record(Writer(tmp_path / "a", 0))
    writer = Writer(tmp_path / "a", 0)
    with pytest.raises(LayerscopeError, match="not open"):
        _ = writer.run
    assert list(writer.resume(FCN.map(FCN.model()))) == ["fragile"]
    assert writer.run.status == "running"
    assert "error" not in writer.run.manifest["notes"]
    writer.finish("complete")
