"""What measuring costs on a sample of each layer, against all weights."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
import torch
from benchmarks.timing import CLOCK, interleaved, seconds

from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every, never

TITLE = "Samples: milliseconds per measured step, and how many times faster than all weights"
HEADER = ("Layers", "Looked at", "ms", "times faster (median, quartiles)")
WIDTHS = {"4 of 0.26 million": 512, "4 of 4.2 million": 2048}
ALL = "all weights"
SIZES: dict[str, int | None] = {ALL: None, "sample=4096": 4096, "sample=65536": 65536}


@pytest.fixture(scope="module", params=WIDTHS)
def samples(request, tmp_path_factory):
    """Seconds of each way by name, taken in turns, for layers of one width."""
    width = WIDTHS[request.param]
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(4)))
    with ExitStack() as stack:
        ways = {}
        for name, size in SIZES.items():
            probes = [WeightChange(sample=size), DistanceFromInitialisation(sample=size)]
            path = tmp_path_factory.mktemp("run")
            schedules = {"measure": every(1), "checkpoints": never()}
            recorder = stack.enter_context(Recorder(model, path, probes=probes, **schedules))
            ways[name] = partial(seconds, recorder.step, 3)
        return request.param, interleaved(ways, 12)


@pytest.mark.benchmark(group="a measured step", timer=CLOCK.read)
@pytest.mark.parametrize("name", SIZES)
def test_step(replay, tables, samples, name):
    layers, found = samples
    ratios = torch.tensor(found[ALL]) / torch.tensor(found[name])
    low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    times = f"{middle:.1f} ({low:.1f} to {high:.1f})"
    milliseconds = 1e3 * sorted(found[name])[len(found[name]) // 2]
    tables.add(TITLE, HEADER, (layers, name, f"{milliseconds:.2f}", times))
    replay(found[name])
