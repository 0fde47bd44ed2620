"""A run that refers to files instead of holding them."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from tests.breaking import IRREGULAR, no_longer_than
from tests.cases import TIED

from layerscope.errors import LayerscopeError
from layerscope.probes import (
    DistanceFromInitialisation,
    GradientMagnitude,
    WeightChange,
    measure,
    stored,
)
from layerscope.report.publish import write_report
from layerscope.runs.store import Run


def state(value):
    """Weights with a buffer and numbers in names, of which 2 comes before 10."""
    layers = {f"layer.{i}.weight": torch.full((2, 2), value + i / 8) for i in (0, 1, 2, 10)}
    norm = {"norm.weight": torch.ones(2) * value, "norm.running_mean": torch.zeros(2)}
    return layers | norm | {"norm.num_batches_tracked": torch.tensor(3)}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    for step in (0, 10, 20):
        torch.save(state(1.0 + step), tmp_path / "out" / f"step{step}.pt")
    return tmp_path / "out"


@pytest.fixture
def run(out, tmp_path):
    return Run.from_checkpoints(tmp_path / "run", out)


def test_nothing_is_copied_and_weights_are_those_of_the_files(run):
    assert [p.suffix for p in (run.path / "checkpoints").iterdir()] == [".json"] * 3
    again = Run.open(run.path)
    assert (again.steps, again.status, again.missing) == ([0, 10, 20], "complete", "")
    assert all(torch.equal(again.checkpoint(10)[n], v) for n, v in state(11.0).items())
    assert again.layers.names == ("layer.0", "layer.1", "layer.2", "layer.10", "norm")
    assert [*again.layers["norm"].buffers] == ["norm.running_mean", "norm.num_batches_tracked"]


def test_it_is_measured_kept_read_back_and_reported(run, tmp_path):
    found = measure(WeightChange(), run)
    assert float(found["change"].sel(layer="layer.0").isel(step=0)) == 10
    assert stored(WeightChange(), Run.open(run.path)).identical(found)
    distance = measure(DistanceFromInitialisation(), run)
    assert distance["rms_distance"].sel(step=20).values == pytest.approx([20] * 5, rel=1e-5)
    assert write_report(run, tmp_path / "report.html").exists()


def test_what_needs_a_model_says_so(run):
    with pytest.raises(LayerscopeError, match=r"GradientMagnitude needs .*model"):
        measure(GradientMagnitude(), run)


def test_without_step_0_distances_from_it_say_what_to_do(out, tmp_path):
    run = Run.from_checkpoints(tmp_path / "run", f"{out}/step[12]*")
    assert run.steps == [10, 20]
    assert measure(WeightChange(), run).sizes["step"] == 1
    with pytest.raises(LayerscopeError, match=r"no checkpoint at step 0, .*\n.*from_checkpoints"):
        measure(DistanceFromInitialisation(), run)


def touch(path):
    os.utime(path, ns=(1, 1))


def rewrite(path):
    about = path.stat()
    torch.save(state(7.0), path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def longer(path):
    path.write_bytes(path.read_bytes() + b"0")


@pytest.mark.parametrize("change", [touch, rewrite, longer])
def test_a_file_that_was_changed_is_an_error(run, out, change):
    change(out / "step10.pt")
    with pytest.raises(LayerscopeError, match=r"step10\.pt, .*step 10, was changed since") as said:
        measure(WeightChange(), run)
    assert "import the checkpoints again" in said.value.remedy
    assert len(run.checkpoint(20)) == 7


def test_a_file_that_is_gone_is_missed_and_is_an_error(run, out):
    (out / "step10.pt").unlink()
    assert run.missing == "the checkpoints at steps 10 are gone"
    with pytest.raises(LayerscopeError, match=r"checkpoint of step 10 is gone: .*out/step10\.pt"):
        run.checkpoint(10)
    (run.path / "checkpoints" / "000000020.json").unlink()
    assert run.missing == "the checkpoints at steps 10, 20 are gone"
    assert run.steps == [0, 10]


def test_run_and_files_may_move_together(run, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("run", "out"):
        shutil.move(tmp_path / name, moved / name)
    again = Run.open(moved / "run")
    assert again.missing == ""
    assert torch.equal(again.checkpoint(10)["norm.weight"], state(11.0)["norm.weight"])


def test_relative_paths_and_links_are_followed(out, tmp_path, monkeypatch):
    (tmp_path / "link.pt").symlink_to(out / "step10.pt")
    monkeypatch.chdir(tmp_path)
    Run.from_checkpoints("run", {0: "out/step0.pt", 5: "link.pt"})
    monkeypatch.chdir(out)
    again = Run.open(tmp_path / "run")
    assert torch.equal(again.checkpoint(5)["norm.weight"], state(11.0)["norm.weight"])
    assert again.steps == [0, 5]


def test_copies_need_the_files_no_more(out, tmp_path):
    run = Run.from_checkpoints(tmp_path / "run", out, copy=True)
    shutil.rmtree(out)
    assert all(torch.equal(run.checkpoint(20)[n], v) for n, v in state(21.0).items())
    assert (run.missing, run.manifest["notes"]["imported"]["copied"]) == ("", True)


def without_place(path):
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k != "relative"}))


def changed(**values):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


DAMAGE = {
    "no JSON": (lambda path: path.write_text("{"), "not valid JSON"),
    "another step": (changed(step=11), "is that of step 11, not of step 10"),
    "another run": (changed(run="x"), "is that of run x, not of run"),
    "no place": (without_place, "does not say where its checkpoint is"),
    "fields": (changed(files=3), "files: Expected"),
    "other names": (changed(names={"layer.0.weight": "gone"}), "lacks 'gone'"),
    "other key": (changed(key="model"), "no weights at key 'model'"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_references_are_named(run, damage, message):
    path = run.path / "checkpoints" / "000000010.json"
    damage(path)
    with pytest.raises(LayerscopeError, match=message):
        run.checkpoint(10)


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_file_is_no_checkpoint(run, out, kind):
    (out / "step10.pt").unlink()
    IRREGULAR[kind](out / "step10.pt")
    with no_longer_than(20), pytest.raises(LayerscopeError, match=r"step10\.pt"):
        run.checkpoint(10)


MISFITS = {
    "missing": (lambda s: s.pop("layer.2.weight"), "step 10, .* lacks 'layer.2.weight'"),
    "more": (lambda s: s.update(x=torch.ones(1)), "the first one differ in 'x'"),
    "shape": (lambda s: s.update({"norm.weight": torch.ones(3)}), r"shape \(3,\) in .*step 10"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_checkpoints_of_another_model_are_named_and_leave_nothing(out, tmp_path, change, message):
    other = state(2.0)
    change(other)
    torch.save(other, out / "step10.pt")
    with pytest.raises(LayerscopeError, match=message):
        Run.from_checkpoints(tmp_path / "run", out)
    assert not (tmp_path / "run").exists()


def test_files_without_any_parameter_have_no_layers(tmp_path):
    torch.save({"a.running_mean": torch.ones(2), "b": torch.tensor(3)}, tmp_path / "step1.pt")
    with pytest.raises(LayerscopeError, match="no tensor that could be a parameter"):
        Run.from_checkpoints(tmp_path / "run", tmp_path / "step1.pt")


def test_a_tied_model_takes_files_without_the_tied_name(tmp_path):
    model = TIED.model()
    kept = {n: v for n, v in model.state_dict().items() if n != "embedding.weight"}
    torch.save(kept, tmp_path / "step1.pt")
    run = Run.from_checkpoints(tmp_path / "run", tmp_path / "step1.pt", TIED.model(1))
    assert torch.equal(run.load(TIED.model(2), 1).embedding.weight, model.embedding.weight)


def test_results_are_read_back_also_from_half_precision(tmp_path):
    for step, dtype in enumerate((torch.float8_e4m3fn, torch.float8_e4m3fn)):
        torch.save({"a.weight": (torch.ones(2, 2) * (step + 1)).to(dtype)}, tmp_path / f"{step}.pt")
    run = Run.from_checkpoints(tmp_path / "run", [tmp_path / "0.pt", tmp_path / "1.pt"])
    assert run.checkpoint(1)["a.weight"].dtype == torch.float8_e4m3fn
    assert float(measure(WeightChange(), run)["change"].squeeze()) == 1.0
