"""``layerscope import`` as a user meets it."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from layerscope.cli import main
from layerscope.models.fcn import fcn
from layerscope.runs.store import Run

FACTORY = "tests.test_cli_import:model"


def model(width=3):
    """Factory for the tests below."""
    torch.manual_seed(0)
    return fcn((4,), 2, depth=1, width=width)


def state(step):
    return {n: v + step for n, v in model().state_dict().items()}


@pytest.fixture
def out(tmp_path):
    for step in range(0, 1000, 100):
        wrapped = {f"module.{name}": value for name, value in state(step).items()}
        torch.save({"model": wrapped, "lr": 0.1}, tmp_path / f"step{step}.pt")
    return tmp_path


def test_it_says_what_it_found_and_what_to_do_next(out, capsys):
    run = out / "run"
    assert main(["import", f"{out}/step*.pt", "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^(\S.*?)  +(\S.*?) *$", printed, re.MULTILINE))
    assert rows["format"] == "torch.save"
    assert rows["weights under"] == "model"
    assert rows["checkpoints"] == "10, not copied"
    assert rows["steps"] == "0, 100, 200, 300, ..., 700, 800, 900"
    assert rows["prefixes left out"] == "module."
    assert rows["2 layers"].startswith("layer1, output (from names")
    commands = re.findall(r"^  layerscope (.*)$", printed, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["measure", "report"]
    for command in commands:
        assert main(command.split()) == 0
    assert "layer1" in capsys.readouterr().out
    assert (run / "report.html").exists()


def test_with_a_model_everything_can_be_measured(out, capsys):
    words = ["--model", FACTORY, "--arguments", json.dumps({"width": 3})]
    run = out / "run"
    first = [f"{out}/step{step}.pt" for step in (100, 200)]  # as a shell expands a pattern
    assert main(["import", *first, *words, "--out", str(run), "--copy"]) == 0
    printed = capsys.readouterr().out
    assert "2, copied" in printed
    assert "no step 0" in printed
    assert "(from the model)" in printed
    assert [p.suffix for p in (run / "checkpoints").iterdir()] == [".safetensors"] * 2
    assert Run.open(run).layers["layer1"].kind == "Linear"


def test_key_and_epochs_are_options(out, capsys):
    torch.save({"net": state(0), "ema": state(1)}, out / "ckpt_5.pt")
    words = ["import", str(out / "ckpt_5.pt"), "--out", str(out / "run"), "--steps-per-epoch", "4"]
    assert main(words) == 2
    assert "more than once: 'net', 'ema'" in capsys.readouterr().err
    assert main([*words, "--key", "ema"]) == 0
    run = Run.open(out / "run")
    assert run.steps_per_epoch == 4
    assert torch.equal(run.checkpoint(5)["output.bias"], state(1)["output.bias"])


def several(out):
    save_file(state(1), out / "step100.safetensors")
    return [str(out)]


WRONG = {
    "nothing": (lambda out: [], "no checkpoints were given"),
    "no match": (lambda out: [f"{out}/stop*"], "nothing matches"),
    "two of one step": (several, "are both of step 100"),
    "arguments alone": (lambda out: [str(out), "--arguments", "{}x"], "without --model"),
    "no factory": (lambda out: [str(out), "--model", "nowhere:x"], "cannot import the model"),
    "another model": (
        lambda out: [
            str(out),
            "--model",
            "tests.test_cli_import:model",
            "--arguments",
            '{"width":4}',
        ],
        "has shape (3, 4) in the checkpoint of step 0",
    ),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_errors_name_the_thing_and_leave_no_run(out, capsys, words, message):
    assert main(["import", *words(out), "--out", str(out / "run")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (out / "run").exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path, capsys):
    torch.save(nn.Linear(2, 2), tmp_path / "step1.pt")
    assert main(["import", str(tmp_path / "step1.pt"), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "torch.nn.modules.linear.Linear, which is not built" in said
    assert "Nothing of it was run" in said
