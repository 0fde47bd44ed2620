"""Measuring a finished run, reading single tensors, and starting the command line."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from benchmarks.loops import Loop, fcn_loop, resnet18_loop
from benchmarks.timing import CLOCK, Overhead, interleaved, seconds
from safetensors.torch import load_file

from layerscope.probes import (
    Convergence,
    DistanceFromInitialisation,
    PathAndProgress,
    WeightChange,
    measure,
    measure_all,
)
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every

TITLE = "Afterwards: how much longer than the first of its group (median over rounds, quartiles)"
HEADER = ("Task", "ms", "longer by %")
GROUPS = {
    "measuring": (
        "read 20 checkpoints of FCN 3x256",
        "measure(WeightChange) over them",
        "the same again, kept in the run",
    ),
    "several": (
        "measure four weight probes of 20 checkpoints of FCN 3x256, one after the other",
        "measure_all of them",
        "WeightChange alone",
    ),
    "reading": ("read a checkpoint of ResNet-18", "read its first layer alone"),
    "starting": ("start Python", "layerscope --help", "import torch"),
}
ROUNDS = 4


def record(loop: Loop, path: Path, checkpoints: int) -> Run:
    with Recorder(loop.model, path, measure=every(1), checkpoints=every(1)) as recorder:
        for _ in range(checkpoints - 1):
            recorder.step(loss=loop.step())
    return recorder.run


def in_turns(group: str, *work) -> dict[str, list[float]]:
    named = zip(GROUPS[group], work, strict=True)
    return interleaved({name: partial(seconds, w) for name, w in named}, ROUNDS)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory):
    run = record(fcn_loop(), tmp_path_factory.mktemp("fcn"), 20)
    files = sorted((run.path / "checkpoints").iterdir())
    return in_turns(
        "measuring",
        lambda: [load_file(file) for file in files],
        lambda: measure(WeightChange(), run, recompute=True),
        lambda: measure(WeightChange(), run),
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    run = record(fcn_loop(), tmp_path_factory.mktemp("several"), 20)
    probes = [
        WeightChange(),
        DistanceFromInitialisation(),
        Convergence(time="step"),
        PathAndProgress(),
    ]
    return in_turns(
        "several",
        lambda: [measure(probe, run, recompute=True) for probe in probes],
        lambda: measure_all(probes, run, recompute=True),
        lambda: measure(WeightChange(), run, recompute=True),
    )


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    run = record(resnet18_loop(), tmp_path_factory.mktemp("resnet"), 1)
    first = run.layers.parameter_names[0]
    return in_turns("reading", lambda: dict(run.checkpoint(0)), lambda: run.checkpoint(0)[first])


@pytest.fixture(scope="module")
def starting():
    def start(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return in_turns(
        "starting",
        partial(start, "-c", ""),
        partial(start, "-m", "layerscope.cli", "--help"),
        partial(start, "-c", "import torch"),
    )


@pytest.mark.benchmark(timer=CLOCK.read)
@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in GROUPS.items() for name in names]
)
def test_afterwards(request, benchmark, replay, tables, group, name):
    samples = request.getfixturevalue(group)
    benchmark.group = f"afterwards: {group}"
    first = GROUPS[group][0]
    longer = "" if name == first else Overhead.of(samples[first], samples[name])
    tables.add(TITLE, HEADER, (name, f"{1e3 * median(samples[name]):.2f}", longer))
    replay(samples[name])
