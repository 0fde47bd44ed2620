from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from threading import Timer

import pytest
import torch
import xarray as xr
from filelock import FileLock
from tests.breaking import truncated
from tests.cases import FCN, TIED

from layerscope.config import SGD, RunConfig, to_dict
from layerscope.errors import LayerscopeError
from layerscope.runs.store import FORMAT_VERSION, Run


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


def test_a_run_says_the_learning_rate_of_its_configuration(tmp_path):
    config = RunConfig(optimizer=SGD(0.4), epochs=4, milestones=(2,), decay=0.1)
    runs = {
        "configured": create(tmp_path / "a", config=to_dict(config), steps_per_epoch=5),
        "of unknown epochs": create(tmp_path / "b", config=to_dict(config)),
        "of another loop": create(tmp_path / "c", config={"x": 1}, steps_per_epoch=5),
        "without any": create(tmp_path / "d", steps_per_epoch=5),
    }
    found = {name: [run.learning_rate(step) for step in (0, 10)] for name, run in runs.items()}
    assert found.pop("configured") == pytest.approx([0.4, 0.04])
    assert set(map(tuple, found.values())) == {(None, None)}
    for run in runs.values():
        run.finish("complete")


def test_a_run_says_the_learning_rate_that_fell_at_plateaus(tmp_path):
    config = RunConfig(optimizer=SGD(0.4), epochs=4, schedule="plateau", decay=0.5)
    run = create(tmp_path / "a", config=to_dict(config), steps_per_epoch=5)
    assert run.learning_rate(19) == 0.4
    run.note(learning_rate_drops=[5, 15])
    run.finish("complete")
    rates = [Run.open(run.path).learning_rate(step) for step in (4, 5, 14, 15)]
    assert rates == [0.4, 0.2, 0.2, 0.1]


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
from layerscope.networks.layers import LayerMap
from layerscope.runs.store import Run
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


def test_an_end_that_was_written_after_the_run_was_read_is_seen(tmp_path):
    writer = create(tmp_path / "a")
    reader = Run.open(tmp_path / "a")
    assert reader.status == "running"
    writer.finish("complete")
    assert (reader.status, reader.manifest["status"]) == ("complete", "complete")


def test_looking_whether_a_run_is_written_does_not_keep_it_from_being(tmp_path):
    run = create(tmp_path / "a")
    run.finish("interrupted")
    looking = FileLock(run.path / ".lock", thread_local=False)
    looking.acquire()
    end = Timer(0.1, looking.release)
    end.start()
    run.acquire()
    end.join()
    run.finish("interrupted")


# Files that are not this run's, or not there


@pytest.fixture
def kept(tmp_path):
    """A complete run with checkpoints at steps 0, 2 and 4."""
    run = create(tmp_path / "kept", total_steps=4)
    for step in (0, 2, 4):
        run.write_checkpoint(step, FCN.model(step).state_dict())
    run.finish("complete")
    return run


def file(run, step):
    return run.path / "checkpoints" / f"{step:09d}.safetensors"


def test_checkpoints_that_are_gone_are_said(kept):
    assert kept.manifest["checkpoints"] == [0, 2, 4]
    file(kept, 2).unlink()
    assert Run.open(kept.path).missing == "the checkpoints at steps 2 are gone"
    kept.finish("interrupted")
    assert Run.open(kept.path).missing == (
        "interrupted: the last checkpoint is at step 4 of 4; it cannot resume; "
        "the checkpoints at steps 2 are gone"
    )


def test_a_checkpoint_that_goes_while_a_run_is_recorded_is_said(tmp_path):
    run = create(tmp_path / "a")
    for step in (0, 1):
        run.write_checkpoint(step, FCN.model().state_dict())
    file(run, 0).unlink()
    run.finish("complete")
    assert run.missing == "the checkpoints at steps 0 are gone"


def test_checkpoints_of_a_run_from_before_are_not_missed(kept):
    manifest = json.loads((kept.path / "run.json").read_text())
    for name in ("checkpoints", "id", "kinds", "checks"):
        del manifest[name]
    (kept.path / "run.json").write_text(json.dumps(manifest))
    file(kept, 2).unlink()
    assert (Run.open(kept.path).missing, Run.open(kept.path).steps) == ("", [0, 4])


def test_a_checkpoint_of_another_step_or_run_is_refused(kept, tmp_path):
    content = file(kept, 2).read_bytes()
    file(kept, 4).write_bytes(content)
    with pytest.raises(LayerscopeError, match=r"000000004.safetensors is that of step 2, not"):
        kept.checkpoint(4)
    other = create(tmp_path / "other")
    other.write_checkpoint(2, {"w": torch.ones(1)})
    file(other, 2).write_bytes(content)
    with pytest.raises(LayerscopeError, match=r"000000002.safetensors is that of run"):
        other.checkpoint(2)
    other.finish("complete")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "lacks 'layer1.weight'"),
        (lambda s: s.pop("output.bias"), "lacks 'output.bias'"),
        (lambda s: s.update({"output.bias": torch.ones(9)}), r"'output.bias' has shape \(9,\)"),
        (lambda s: s.update({"output.bias": torch.ones(3).bool()}), "'output.bias' holds boolean"),
    ],
)
@pytest.mark.parametrize("ours", [False, True])
def test_a_checkpoint_that_does_not_fit_the_manifest_is_named(kept, change, message, ours):
    from safetensors.torch import save_file

    state = dict(FCN.model(2).state_dict())
    change(state)
    kept.write_checkpoint(2, state) if ours else save_file(state, file(kept, 2))
    with pytest.raises(LayerscopeError, match=rf"000000002.safetensors does not fit.*{message}"):
        kept.checkpoint(2)


def test_checkpoints_under_other_names_are_no_steps(kept):
    for name in ("4.safetensors", "\N{SUPERSCRIPT TWO}.safetensors", "٣.safetensors"):
        (kept.path / "checkpoints" / name).write_bytes(b"")
    assert kept.steps == [0, 2, 4]


def test_results_of_another_probe_or_run_are_refused(kept, tmp_path):
    kept.replace_results("training", scalars(1))
    other = create(tmp_path / "other")
    other.replace_results("evaluation", scalars(2))
    for run, key in ((kept, "evaluation"), (other, "training")):
        (run.path / "results" / key).mkdir(exist_ok=True)
        (run.path / "results" / key / "all.nc").write_bytes(
            (kept.path / "results" / "training" / "all.nc").read_bytes()
        )
    with pytest.raises(LayerscopeError, match=r"all.nc is the result of another key, 'training'"):
        kept.results("evaluation")
    with pytest.raises(LayerscopeError, match=r"all.nc is the result of another run"):
        other.results("training")
    other.finish("complete")


def test_results_without_a_variable_are_named(kept):
    kept.replace_results("training", scalars(1).assign(other=("step", [2.0])))
    path = kept.path / "results" / "training" / "all.nc"
    xr.load_dataset(path).drop_vars("loss").to_netcdf(path, engine="netcdf4")
    with pytest.raises(LayerscopeError, match=r"all.nc lacks its variable 'loss'"):
        kept.results("training")


def test_damaged_parts_do_not_cost_the_status(tmp_path):
    run = create(tmp_path / "a")
    run.append_results("training", scalars(1))
    run.append_results("training", scalars(2))
    truncated(run.path / "results" / "training" / "000000002-000000002.nc", 0.5)
    with pytest.raises(LayerscopeError, match=r"000000002-000000002.nc is truncated"):
        run.finish("complete")
    assert Run.open(run.path).status == "complete"
    run.acquire()


@pytest.mark.parametrize("name", [os.fsdecode(b"run\xff"), "a\0b"])
def test_a_path_that_is_no_text_is_refused_before_training(tmp_path, name):
    with pytest.raises(LayerscopeError, match="is not valid UTF-8"):
        create(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_lock_is_named(tmp_path):
    (tmp_path / "a" / ".lock").mkdir(parents=True)
    with pytest.raises(LayerscopeError, match=r"cannot lock .*\.lock"):
        create(tmp_path / "a")
