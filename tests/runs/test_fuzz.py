"""Damaged files: the right result, the result that there is without the damage, or a clear error.

Every kind of file of a run is damaged in 300 ways, each drawn from its own seed, and read by all
that reads it. An error must be a `LayerscopeError` that names the file; anything else that is
raised, a hang, and a result that differs without a word fail.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.breaking import no_longer_than

from layerscope.config import FCN, Adam, RunConfig
from layerscope.errors import LayerscopeError
from layerscope.probes import (
    Convergence,
    DistanceFromInitialisation,
    GradientMagnitude,
    WeightChange,
    measure,
)
from layerscope.report.run_page import run_page
from layerscope.runs.store import Run
from layerscope.training.loop import train
from layerscope.training.problem import restore

MUTATIONS = 300
SECONDS = 30.0
CONFIG = RunConfig(
    model=FCN(depth=1, width=4),
    optimizer=Adam(0.01),
    epochs=2,
    batch_size=512,
    probe_batch=8,
    checkpoints="every(2)",
)
PROBES = (WeightChange(), GradientMagnitude())
CHECKPOINT = "checkpoints/000000002.safetensors"


def trained(config: RunConfig, path: Path, steps: int | None = None) -> Path:
    """A run, interrupted after so many steps."""

    def stop(done: int, total: int) -> None:
        if done == steps:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"accelerator": "cpu", "resume_seconds": -1.0, "advance": stop}
    if steps is None:
        train(config, path, probes=PROBES, **options)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(config, path, probes=PROBES, **options)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A complete and an interrupted run, and two others of the same configuration but its seed."""
    folder = tmp_path_factory.mktemp("runs")
    other = RunConfig(**{**vars(CONFIG), "seed": 1})
    made = {
        "complete": trained(CONFIG, folder / "complete"),
        "interrupted": trained(CONFIG, folder / "interrupted", 4),
        "other complete": trained(other, folder / "other complete"),
        "other interrupted": trained(other, folder / "other interrupted", 4),
    }
    for name in ("complete", "other complete"):
        run_page([Run.open(made[name])])  # measures what it shows
    return made


# Readers: each returns everything that it found, as text


def dataset(found: Any) -> str:
    return json.dumps(found.to_dict(), sort_keys=True, default=str)


def weights(path: Path) -> list[str]:
    run = Run.open(path)
    from_weights = (WeightChange(), Convergence(), DistanceFromInitialisation())
    return [run.missing, *(dataset(measure(p, run, recompute=True)) for p in from_weights)]


def gradients(path: Path) -> list[str]:
    run = Run.open(path)
    made = restore(run)
    found = measure(GradientMagnitude(), run, model=made.model, task=made.task, recompute=True)
    return [dataset(found)]


def page(path: Path) -> list[str]:
    run = Run.open(path)
    made = run_page([run])
    text = (made.title, made.subtitle, made.facts, made.findings, made.provenance, made.notices)
    assert made.table is not None
    return [
        repr(text),
        dataset(made.table.data),
        *(dataset(run.results(k)) for k in run.result_keys),
    ]


def stored(path: Path) -> list[str]:
    """What is stored of a measurement from checkpoints, and the page."""
    return [dataset(measure(Convergence(), Run.open(path))), *page(path)]


def resumed(path: Path) -> list[str]:
    run = train(CONFIG, path, probes=PROBES, accelerator="cpu")
    state = {name: value.tolist() for name, value in run.checkpoint(run.steps[-1]).items()}
    results = [dataset(run.results(key)) for key in run.result_keys]
    return [repr(sorted(state.items())), repr(run.steps), *results]


# Damages


def flipped(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def overwritten(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] = draw.randrange(256)


def truncated(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def zeroed(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    stop = min(len(content), start + draw.choice([4, 64, 4096]))
    content[start:stop] = bytes(stop - start)


def cut(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    del content[start : start + draw.randint(1, 40)]


BYTES = (flipped, overwritten, truncated, zeroed, cut)


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested lists and objects."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


SWAPS = (None, True, -1, 0, 1.5, 10**30, "", "x", [], {}, [1], {"x": 1})


def change_json(values: Any, draw: random.Random) -> None:
    """Delete a value, or put one of another kind in its place."""
    *path, last = draw.choice(list(places(values)))
    for key in path:
        values = values[key]
    if draw.random() < 0.4:
        del values[last]
    else:
        values[last] = draw.choice([v for v in SWAPS if sort(v) != sort(values[last])])


def sort(value: Any) -> str:
    """Sort of a JSON value; without a checksum nobody could tell a number from another one."""
    return "number" if type(value) in (int, float) else type(value).__name__


def edited_manifest(content: bytearray, draw: random.Random) -> None:
    values = json.loads(content)
    change_json(values, draw)
    content[:] = json.dumps(values, indent=2).encode()


def edited_state(content: bytearray, draw: random.Random) -> None:
    """Change what stands beside the tensors of a file without checksums."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"].pop("layerscope.xxh3")
    state = json.loads(header["__metadata__"]["state"])
    change_json(state, draw)
    header["__metadata__"]["state"] = json.dumps(state)
    text = json.dumps(header).encode()
    content[: 8 + length] = len(text).to_bytes(8, "little") + text


KINDS: dict[str, tuple[str, str, Callable[[Path], list[str]], tuple[Any, ...]]] = {
    "manifest": ("complete", "run.json", page, (*BYTES, edited_manifest, edited_manifest)),
    "manifest resumed": ("interrupted", "run.json", resumed, (*BYTES, edited_manifest)),
    "resume": ("interrupted", "resume.safetensors", resumed, (*BYTES, edited_state, edited_state)),
    "batch": ("complete", "batch.safetensors", gradients, BYTES),
    "checkpoint": ("complete", CHECKPOINT, weights, BYTES),
    "live result": ("complete", "results/weight_change/all.nc", page, BYTES),
    "result": ("complete", "results/convergence/all.nc", stored, BYTES),
    "part": ("interrupted", "results/gradient_magnitude/all.nc", resumed, BYTES),
}
"""Which run, which of its files, what reads it, and how it is damaged."""
FEWER = {"manifest resumed": 40, "part": 15}
"""Kinds of which another one has the most, or whose reader trains to the end first."""


def others(runs: dict[str, Path], base: str, name: str) -> list[Path]:
    """Files that may stand in the place of one: of the same run, and the same one of another."""
    same = [p for p in sorted(runs[base].rglob("*")) if p.is_file() and p != runs[base] / name]
    return [*same, *([runs[f"other {base}"] / name] * 4)]


def outcome(
    read: Callable[[Path], list[str]], file: Path, path: Path, expected: list[str], what: str
) -> str:
    """How reading a damaged run ended, if it ended well."""
    try:
        with no_longer_than(SECONDS):
            found = read(path)
    except LayerscopeError as error:
        if file.name in str(error):
            return "error"
        raise AssertionError(f"{what}: the error does not name the file") from error
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert found == expected, f"{what}: another result without a word"
    return "same"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_the_right_result_or_a_clear_error(kind, runs, tmp_path):
    base, name, read, damages = KINDS[kind]
    torch.set_num_threads(1)
    expected = read(Path(shutil.copytree(runs[base], tmp_path / "run")))
    outcomes: Counter[str] = Counter()
    file = tmp_path / "run" / name
    for number in range(FEWER.get(kind, MUTATIONS)):
        draw = random.Random(f"{kind}/{number}")
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(runs[base], tmp_path / "run")
        whole = file.read_bytes()
        content = bytearray(whole)
        damage = draw.choice((*damages, "swapped"))
        while content == whole:  # much of a file is zeros already
            if damage == "swapped":
                content[:] = draw.choice(others(runs, base, name)).read_bytes()
            else:
                damage(content, draw)
        file.write_bytes(content)
        what = f"{kind} {number}, {getattr(damage, '__name__', damage)}"
        outcomes[outcome(read, file, tmp_path / "run", expected, what)] += 1
    print(f"{kind}: {dict(outcomes)}")
    assert outcomes["error"] > outcomes["same"]
