"""The examples run as they stand and train the weights of the same script without a recorder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerscope.runs.store import Run

FOLDER = Path(__file__).parent.parent / "examples"
STEPS = {"plain_loop": 20, "transformers_trainer": 6, "lightning_trainer": 8, "accelerate_loop": 8}
SAVE = "\nimport torch\ntorch.save(model.state_dict(), 'weights.pt')\n"


OURS = re.compile(r"layerscope|recorder|Layerscope|\bprobes\b")


def without_us(source: str) -> str:
    """The script without the statements that speak of layerscope."""
    parts = [ast.get_source_segment(source, node) or "" for node in ast.parse(source).body[1:]]
    return "\n".join(part for part in parts if not OURS.search(part))


def run(source: str, folder: Path, *words: str) -> None:
    """Run a script in a folder of its own, with torchrun where words say so."""
    folder.mkdir()
    (folder / "script.py").write_text(source)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, *words, "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


def assert_equal(a: Path, b: Path) -> None:
    found, expected = (torch.load(path, weights_only=True) for path in (a, b))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def scripts(name: str) -> tuple[str, str]:
    source = (FOLDER / f"{name}.py").read_text()
    return source, without_us(source)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_weights_are_those_of_the_script_without_a_recorder(tmp_path, name):
    source, alone = scripts(name)
    run(source + SAVE, tmp_path / "with")
    run(alone + SAVE, tmp_path / "without")
    assert_equal(tmp_path / "with" / "weights.pt", tmp_path / "without" / "weights.pt")
    (folder,) = (tmp_path / "with" / "runs").iterdir()
    found = Run.open(folder)
    assert (found.status, found.steps[-1]) == ("complete", STEPS[name])
    assert "failed_probes" not in found.manifest["notes"]
    assert {"weight_change"} <= {*found.result_keys}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_on_two_processes(tmp_path, name):
    words = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    for source, folder in zip(scripts(name), ("with", "without"), strict=True):
        run(source, tmp_path / folder, *words)
    for rank in (0, 1):
        file = f"{name}-{rank}.pt"
        assert_equal(tmp_path / "with" / file, tmp_path / "without" / file)
    found = Run.open(tmp_path / "with" / "runs" / name)
    assert (found.status, found.steps[-1]) == ("complete", 20)
