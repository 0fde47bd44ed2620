from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerscope.errors import LayerscopeError
from layerscope.runs.sources.gathering import by_step
from layerscope.runs.sources.steps import step_of, step_of_path
from layerscope.runs.store import Run

NAMES = {
    "step1000": 1000,
    "checkpoint-500": 500,
    "epoch=3-step=120.ckpt": 120,
    "epoch=3-step=120-v1.ckpt": 120,
    "ckpt_000": 0,
    "step-001000-2BT": 1000,
    "iter_0000100": 100,
    "global_step100": 100,
    "20.pt": 20,
    "model_1000.pt": 1000,
    "stage1-step5000-tokens21B": 5000,
    "step5-5": 5,
    "model-12.safetensors.index.json": 12,
    "Checkpoint_7": 7,
    "main": None,
    "last.ckpt": None,
    "epoch=3.ckpt": None,
    "resnet50.pt": None,
    "v2": None,
}


@pytest.mark.parametrize(("name", "step"), NAMES.items())
def test_names_say_steps(name, step):
    assert step_of(name) == step


@pytest.mark.parametrize("name", ["3-4.pt", "model-00001-of-00002.bin", "step5_step6"])
def test_several_numbers_are_ambiguous(name):
    with pytest.raises(LayerscopeError, match=rf"{name}.* says several steps: .*\n.*{{1000: path"):
        step_of(name)


def test_a_file_without_a_number_has_that_of_its_folder():
    assert step_of_path(Path("out/checkpoint-500/model.safetensors")) == 500
    with pytest.raises(LayerscopeError, match=r"out/epoch=3\.ckpt has an epoch, not a step"):
        step_of_path(Path("out/epoch=3.ckpt"))
    with pytest.raises(LayerscopeError, match=r"out/last\.ckpt has no number of a step"):
        step_of_path(Path("out/last.ckpt"))


@pytest.fixture
def out(tmp_path):
    """A folder of checkpoints in folders, with what trainers leave beside them."""
    for step in (5, 10, 100):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
        path = tmp_path / "out" / f"checkpoint-{step}" / "pytorch_model.bin"
        torch.save({"layer.weight": torch.full((2, 2), float(step))}, path)
        (path.parent / "trainer_state.json").write_text("{}")
        torch.save({}, path.parent / "optimizer.pt")
    (tmp_path / "out" / "runs").mkdir()
    (tmp_path / "out" / "README.md").write_text("")
    torch.save({}, tmp_path / "out" / "training_args.bin")
    return tmp_path / "out"


WAYS = {
    "pattern": lambda out: str(out / "checkpoint-*"),
    "pattern as a path": lambda out: out / "checkpoint-*",
    "pattern of files": lambda out: f"{out}/*/pytorch_model.bin",
    "folder": lambda out: out,
    "list": lambda out: [out / f"checkpoint-{step}" for step in (100, 5, 10)],
    "list of patterns": lambda out: [f"{out}/checkpoint-1*", f"{out}/checkpoint-5"],
    "mapping": lambda out: {step: str(out / f"checkpoint-{step}") for step in (10, 5, 100)},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_ways_to_name_checkpoints(out, tmp_path, way):
    run = Run.from_checkpoints(tmp_path / "run", way(out))
    assert run.steps == [5, 10, 100]
    assert [float(run.checkpoint(s)["layer.weight"][0, 0]) for s in run.steps] == [5, 10, 100]


def also(out, name):
    torch.save({}, out / name)


REFUSED = {
    "nothing": (lambda out: f"{out}/step*", r"nothing matches .*step\*"),
    "no file": (lambda out: f"{out}/model.pt", r"there is no checkpoint .*model\.pt"),
    "another folder": (lambda out: f"{out}/r*", r"out/runs, which .*r\* matches, is no checkpoint"),
    "empty folder": (lambda out: out / "runs", "runs holds no checkpoint of a known format"),
    "no number": (lambda out: also(out, "last.pt") or out, r"last\.pt has no number of a step"),
    "epoch": (lambda out: also(out, "epoch_2.pt") or out, r"epoch_2\.pt has an epoch, not a step"),
    "one step twice": (
        lambda out: also(out, "step-5.pt") or out,
        r"checkpoint-5 and .*step-5\.pt are both of step 5",
    ),
    "checkpoint and folder": (
        lambda out: also(out, "pytorch_model.bin") or out,
        r"is a checkpoint and has others in it, such as checkpoint-10",
    ),
    "empty list": (lambda out: [], "there are no checkpoints"),
}


@pytest.mark.parametrize(("way", "message"), REFUSED.values(), ids=REFUSED)
def test_what_says_no_step_is_refused_with_its_name(out, way, message):
    with pytest.raises(LayerscopeError, match=message) as said:
        by_step(way(out))
    assert said.value.remedy


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path):
    torch.save({"layer.weight": torch.ones(1, 1)}, tmp_path / "[a] step3.pt")
    assert {*by_step(tmp_path / "[a] step3.pt")} == {3}
