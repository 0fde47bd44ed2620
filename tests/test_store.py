from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import xarray as xr
from tests.breaking import truncated
from tests.cases import FCN, TIED

from layerscope.errors import LayerscopeError
from layerscope.store import FORMAT_VERSION, Run


def create(path, case=FCN, **options):
    return Run.create(path, case.map(case.model()), **options)


def change_manifest(path, **values):
    manifest = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(manifest | values))


def scalars(*steps):
    return xr.Dataset({"loss": ("step", [float(s) for s in steps])}, {"step": list(steps)})


def test_a_new_run_is_running_and_then_complete(tmp_path):
    run = create(tmp_path / "a", seed=3, total_steps=9, config={"x": 1}, steps_per_epoch=2)
    assert (run.status, Run.open(tmp_path / "a").status, run.missing) == ("running", "running", "")
    run.finish("complete", test_error=0.1)
    again = Run.open(tmp_path / "a")
    assert (again.status, again.missing, again.layers) == ("complete", "", run.layers)
    assert (again.manifest["seed"], again.steps_per_epoch, again.steps) == (3, 2, [])
    assert again.manifest["notes"] == {"test_error": 0.1}


@pytest.mark.parametrize("case", [FCN, TIED], ids=lambda case: case.name)
def test_weights_come_back(tmp_path, case):
    model, other = case.model(0), case.model(1)
    run = create(tmp_path / "a", case)
    tensors = {n: v for n, v in model.state_dict().items() if n not in run.layers.aliases}
    run.write_checkpoint(12, tensors)
    assert (run.steps, set(run.checkpoint(12))) == ([12], set(tensors))
    run.load(other, 12)
    assert all(torch.equal(other.state_dict()[n], v) for n, v in model.state_dict().items())
    run.finish("complete")


def test_a_model_that_does_not_fit(tmp_path):
    run = create(tmp_path / "a")
    run.write_checkpoint(0, FCN.model().state_dict())
    with pytest.raises(LayerscopeError, match="do not fit Tied"):
        run.load(TIED.model(), 0)
    run.finish("complete")


def test_an_unknown_step_lists_the_steps_there_are(tmp_path):
    run = create(tmp_path / "a")
    for step in range(20):
        run.write_checkpoint(step, {"w": torch.ones(1)})
    with pytest.raises(
        LayerscopeError, match=r"step 99.\n.*steps 0, 1, 2, 3, 4, 5, ..., 17, 18, 19"
    ):
        run.checkpoint(99)
    run.finish("complete")


def test_foreign_files_among_the_checkpoints_are_ignored(tmp_path):
    run = create(tmp_path / "a")
    run.write_checkpoint(0, {"w": torch.ones(1)})
    (tmp_path / "a" / "checkpoints" / "best.safetensors").write_bytes(b"")
    assert run.steps == [0]
    run.finish("complete")


def test_a_damaged_checkpoint_leaves_the_others(tmp_path):
    run = create(tmp_path / "a")
    for step in (0, 1):
        run.write_checkpoint(step, FCN.model().state_dict())
    truncated(tmp_path / "a" / "checkpoints" / "000000001.safetensors", 0.5)
    with pytest.raises(LayerscopeError, match=r"000000001.safetensors is truncated"):
        run.checkpoint(1)
    assert len(run.checkpoint(0)) == 6
    run.finish("complete")


def test_results_are_appended_replaced_and_compacted(tmp_path):
    run = create(tmp_path / "a")
    run.append_results("training", scalars(1, 2))
    run.append_results("training", scalars(3))
    assert run.result_keys == ["training"]
    assert run.results("training")["loss"].values.tolist() == [1.0, 2.0, 3.0]
    run.finish("complete")
    assert [p.name for p in (run.path / "results" / "training").iterdir()] == ["all.nc"]
    run.replace_results("training", scalars(7))
    assert run.results("training")["loss"].values.tolist() == [7.0]


def test_unknown_results_list_those_there_are(tmp_path):
    run = create(tmp_path / "a")
    with pytest.raises(LayerscopeError, match=r"no results of 'x'.\n.*It has none"):
        run.results("x")
    run.append_results("training", scalars(1))
    with pytest.raises(LayerscopeError, match="It has training"):
        run.results("x")
    run.finish("complete")


def test_a_folder_holds_one_run(tmp_path):
    create(tmp_path / "a").finish("complete")
    with pytest.raises(LayerscopeError, match="already holds a run"):
        create(tmp_path / "a")
    with pytest.raises(LayerscopeError, match="holds no run"):
        Run.open(tmp_path / "b")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_a_newer_format_says_upgrade(tmp_path, version):
    create(tmp_path / "a").finish("complete")
    change_manifest(tmp_path / "a", format_version=version)
    with pytest.raises(LayerscopeError, match=rf"format version {version}.*\n.*Upgrade"):
        Run.open(tmp_path / "a")


def test_a_truncated_manifest_names_the_file(tmp_path):
    create(tmp_path / "a").finish("complete")
    truncated(tmp_path / "a" / "run.json", 0.7)
    with pytest.raises(LayerscopeError, match=r"run.json is not valid JSON"):
        Run.open(tmp_path / "a")


def test_a_second_recorder_is_refused(tmp_path):
    run = create(tmp_path / "a")
    with pytest.raises(LayerscopeError, match="another process is recording"):
        Run.open(tmp_path / "a").acquire()
    run.finish("interrupted")
    Run.open(tmp_path / "a").acquire()


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(LayerscopeError, match="cannot write"):
        create(tmp_path / "file.txt" / "run")
    with pytest.raises(LayerscopeError, match="holds no run"):
        Run.open(tmp_path / "file.txt" / "run")


@pytest.mark.parametrize(
    ("status", "files", "sentence"),
    [
        ("interrupted", [], "interrupted: no checkpoint; it cannot resume"),
        (
            "interrupted",
            ["checkpoints/000000004.safetensors", "resume.safetensors"],
            "interrupted: the last checkpoint is at step 4 of 9; it can be resumed",
        ),
        (
            "diverged",
            ["checkpoints/000000004.safetensors"],
            "diverged at step 6: the last checkpoint is at step 4 of 9",
        ),
    ],
)
def test_what_is_missing_is_said(tmp_path, status, files, sentence):
    run = create(tmp_path / "a", total_steps=9)
    for name in files:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_bytes(b"")
    run.finish(status, diverged_at=6)
    assert Run.open(tmp_path / "a").missing == sentence


KILLED = """
import os, sys, signal
from layerscope.layers import LayerMap
from layerscope.store import Run
run = Run.create(sys.argv[1], LayerMap(()))
print(run.status, flush=True)
sys.stdin.readline()
"""


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"running"
        run = Run.open(tmp_path / "a")
        assert (run.status, run.missing) == ("running", "")
        (tmp_path / "a" / ".x.nc.1.tmp").write_bytes(b"")
        os.kill(process.pid, signal.SIGKILL)
    assert (run.status, run.manifest["status"]) == ("interrupted", "running")
    assert run.missing == "interrupted: no checkpoint; it cannot resume"
    run.acquire()
    assert not (tmp_path / "a" / ".x.nc.1.tmp").exists()
