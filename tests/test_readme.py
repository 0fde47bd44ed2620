"""The README's snippets run as they stand, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from layerscope.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINEARITY = (ROOT / "docs" / "effective_linearity.md").read_text()
ANY_LOOP = (ROOT / "docs" / "any_loop.md").read_text()
SINKS = (ROOT / "docs" / "sinks_and_notebooks.md").read_text()
CONDITIONING = (ROOT / "docs" / "conditioning.md").read_text()
LARGE = (ROOT / "docs" / "large_and_sharded.md").read_text()


def test_the_snippets_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 4
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert (tmp_path / "runs/mine/report.html").exists()
    assert "order" in printed
    assert "reversal" in printed


def test_the_example_of_effective_linearity_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", LINEARITY, re.DOTALL)
    exec(compile(snippet, "effective_linearity.md", "exec"), {})
    page = (tmp_path / "runs/linear/report.html").read_text("utf-8")
    assert "In this one run, removing the nonlinearity of 1 costs" in page
    commands = re.findall(r"^    layerscope (\w+)", LINEARITY, re.MULTILINE)
    assert commands == ["train", "measure", "report"]
    assert set(commands) <= set(COMMANDS)


def test_the_example_of_conditioning_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", CONDITIONING, re.DOTALL)
    exec(compile(snippet, "conditioning.md", "exec"), {})
    assert "largest_input" in capsys.readouterr().out
    page = (tmp_path / "runs/conditioning/report.html").read_text("utf-8")
    assert "How well conditioned each layer is" in page
    commands = re.findall(r"^    layerscope (\w+)", CONDITIONING, re.MULTILINE)
    assert commands == ["train", "measure", "measure", "report"]
    assert set(commands) <= set(COMMANDS)


def test_the_example_of_any_loop_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", ANY_LOOP, re.DOTALL)
    exec(compile(snippet, "any_loop.md", "exec"), {})
    assert "layer" in capsys.readouterr().out
    commands = re.findall(r"^    layerscope (\w+)", ANY_LOOP, re.MULTILINE)
    assert commands == ["watch", "watch"]
    for path in re.findall(r"\]\(\.\./(.*?)\)", ANY_LOOP):
        assert (ROOT / path).exists()


@pytest.mark.filterwarnings("ignore:.*implicitly cleaning up:ResourceWarning")
def test_the_examples_of_sinks_and_notebooks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", SINKS, re.DOTALL):
        exec(compile(snippet, "sinks_and_notebooks.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "status: complete" in printed
    assert "LayerMap of 2 layers, 178 parameters" in printed
    assert len(list((tmp_path / "runs/tb").iterdir())) == 1
    assert (tmp_path / "convergence.pdf").stat().st_size > 1000
    (command,) = re.findall(r"^    layerscope (.*)$", SINKS, re.MULTILINE)
    assert shlex.split(command)[0] in COMMANDS


def test_the_example_of_large_models_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", LARGE, re.DOTALL)
    exec(compile(snippet, "large_and_sharded.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "weight_change,sample=4096 [" in printed
    assert "kept no checkpoints" in printed


def test_every_command_in_the_readme_exists():
    commands = re.findall(r"^\$ (?:\.venv/bin/)?layerscope (.*)$", README, re.MULTILINE)
    assert len(commands) >= 6
    assert {shlex.split(command)[0] for command in commands} <= set(COMMANDS)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)(.*?)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
