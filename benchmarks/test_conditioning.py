"""Second moments of every layer and their spectra.

In gradients of the same batch; and beside other libraries that make Kronecker factors, each in turn
with what it is compared with, on matrices that all of them know.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import peers
from benchmarks.matrices import WORK
from benchmarks.timing import CLOCK, interleaved, seconds

from layerscope.functional.conditioning import condition, kronecker_condition
from layerscope.networks.factors import Factors, collect
from layerscope.networks.task import Task

TITLE = "Conditioning of all layers, in gradients of the same batch"
HEADER = ("Model", "examples", "matrices", "gradient ms", "factors", "and spectra")
BESIDE = (
    "Spectra of linear layers and convolutions beside other libraries: processor time of theirs "
    "over layerscope's (quartiles)"
)
COLUMNS = ("Model", "Library", "ms", "factors", "values", "all", "MiB", "own MiB", "Difference")
ROUNDS = {"ResNet-18": 3}
REFUSALS = (NotImplementedError, RuntimeError)  # what the libraries raise


def spectra(found: dict[Any, Factors]) -> list[float]:
    """What `Conditioning` makes of the factors, less the probe around it."""
    largest = []
    for one in found.values():
        left = one.input.eigenvalues()
        if one.gradient is None:
            largest.append(condition(left).largest)
            continue
        right = one.gradient.eigenvalues()
        largest += [condition(left).largest, condition(right).largest]
        largest.append(kronecker_condition(left, right).largest)
    return largest


@pytest.mark.benchmark(group="conditioning", timer=CLOCK.read)
@pytest.mark.parametrize("name", WORK)
def test_conditioning(name, replay, tables):
    model, batch = WORK[name]()
    task = Task.classification()
    parameters = list(model.parameters())

    def gradient() -> None:
        torch.autograd.grad(task.loss(task.forward(model, batch), batch), parameters)

    def factors() -> dict[Any, Factors]:
        return collect(model, [batch], task, training=True)

    found = factors()
    assert all(np.isfinite(spectra(found)))
    ways = {"gradient": gradient, "factors": factors, "all": lambda: spectra(factors())}
    samples = interleaved({k: partial(seconds, way) for k, way in ways.items()}, 7)
    replay(samples["all"])
    times = {k: np.asarray(values) for k, values in samples.items()}
    multiples = [np.median(times[k] / times["gradient"]) for k in ("factors", "all")]
    row = (name, len(batch[0]), len(found), f"{1e3 * np.median(times['gradient']):.1f}")
    tables.add(TITLE, HEADER, (*row, *(f"{one:.1f}" for one in multiples)))


def growth(model: str, library: str) -> str:
    """MiB by which the largest resident set grows, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", model, library],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def halves(work: Any) -> dict[str, Callable[[], float]]:
    """The seconds of factors, and of the eigenvalues of those that were made last."""
    made = work.factors()

    def factors() -> float:
        nonlocal made
        made = None  # as large as what follows

        def make() -> None:
            nonlocal made
            made = work.factors()

        return seconds(make, clock=time.process_time)

    def eigenvalues() -> float:
        return seconds(lambda: work.spectra(made), clock=time.process_time)

    return {"factors": factors, "values": eigenvalues}


def quartiles(theirs: np.ndarray, own: np.ndarray) -> str:
    low, median, high = np.percentile(theirs / own, [25, 50, 75])
    return f"{median:.2f} ({low:.2f}, {high:.2f})"


@pytest.mark.benchmark(group="conditioning beside others", timer=CLOCK.read)
@pytest.mark.parametrize("library", peers.PEERS)
@pytest.mark.parametrize("name", WORK)
def test_beside_other_libraries(name, library, replay, tables):
    theirs, own, fisher = peers.PEERS[library]
    title = library if fisher == "empirical" else f"{library}, {fisher}"

    def say(what: str) -> None:
        tables.add(BESIDE, COLUMNS, (name, title, *[""] * 6, what))

    if importlib.util.find_spec(library) is None:
        say("not installed")
        pytest.skip(f"{library} is not installed: see benchmarks/peers.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        try:
            other = theirs(*peers.prepared(name))
            found = other.spectra(other.factors())
        except REFUSALS as error:
            say("refuses: " + str(error).splitlines()[0])
            pytest.skip(f"{library} refuses {name}: {error}")
        ours = own(*peers.prepared(name))
        apart = peers.difference(found, ours.spectra(ours.factors()))
        ways = {
            (which, part): way
            for which, one in (("own", ours), ("theirs", other))
            for part, way in halves(one).items()
        }
        samples = interleaved(ways, ROUNDS.get(name, 7))
    times = {key: np.asarray(values) for key, values in samples.items()}
    for which in ("own", "theirs"):
        times[which, "all"] = times[which, "factors"] + times[which, "values"]
    replay(list(times["theirs", "all"]))
    ratios = (
        quartiles(times["theirs", part], times["own", part])
        for part in ("factors", "values", "all")
    )
    own_name = peers.name_of(own)
    tables.add(
        BESIDE,
        COLUMNS,
        (
            name,
            title,
            f"{1e3 * np.median(times['theirs', 'all']):.0f}",
            *ratios,
            growth(name, library),
            growth(name, own_name),
            f"{apart:.0e}",
        ),
    )
    assert apart < 1e-5
