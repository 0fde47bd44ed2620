"""How per-step weight change grows with the number of layers and of parameters."""

from __future__ import annotations

from functools import partial
from statistics import median

import pytest
from benchmarks.loops import deep_loop
from benchmarks.timing import CLOCK, Overhead, interleaved, seconds

from layerscope.probes import WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.schedule import at, every

TITLE = "Growth: weight change at every step, square linear layers, batch 128"
HEADER = ("tensors", "parameters", "bare ms", "recorder ms", "overhead %")
SIZES = [(n, 10**6) for n in (4, 16, 64, 256)] + [(16, n) for n in (10**5, 10**7)]
ROUNDS, PARAMETERS_PER_ROUND = 12, 3 * 10**6


@pytest.mark.parametrize(("tensors", "parameters"), SIZES)
@pytest.mark.benchmark(group="recorder's part of a step, by size", timer=CLOCK.read)
def test_growth(replay, tables, tmp_path, tensors, parameters):
    bare, loop = deep_loop(tensors, parameters), deep_loop(tensors, parameters)
    repeats = min(max(PARAMETERS_PER_ROUND // parameters, 1), 10)
    probes, schedules = [WeightChange()], {"measure": every(1), "checkpoints": at(0)}
    with Recorder(loop.model, tmp_path, probes=probes, **schedules) as recorder:
        work = {"bare": bare.step, "recorded": lambda: recorder.step(loss=loop.step())}
        samples = interleaved({n: partial(seconds, w, repeats) for n, w in work.items()}, ROUNDS)
        alone = [seconds(recorder.step, repeats) for _ in range(ROUNDS)]
    times = [f"{1e3 * median(values):.2f}" for values in (samples["bare"], alone)]
    overhead = Overhead.of(samples["bare"], samples["recorded"])
    tables.add(TITLE, HEADER, (tensors, f"{parameters:,}", *times, overhead))
    replay(alone)
