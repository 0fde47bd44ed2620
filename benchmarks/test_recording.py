"""What recording adds to a training loop, per step and per epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

import pytest
import torch
from benchmarks.loops import FCN_STEPS, RESNET_STEPS, Loop, fcn_loop, resnet18_loop
from benchmarks.timing import CLOCK, Overhead, Timed, interleaved, seconds

from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.recording.recorder import FLUSH_SECONDS, Recorder
from layerscope.schedule import at, epochs, every

TITLE = "Recording: milliseconds per unit, overhead in % of the bare loop (median, quartiles)"
HEADER = ("Model", "Recorded", "Schedule", "per", "bare ms", "recorded ms", "overhead %")

WEIGHT_CHANGE, DISTANCE = WeightChange(), DistanceFromInitialisation()
STEPWISE = {
    "weight change": ([WEIGHT_CHANGE], every(1)),
    "distance": ([DISTANCE], every(1)),
    "weight change and distance": ([WEIGHT_CHANGE, DISTANCE], every(1)),
    "weight change, every 10 steps": ([WEIGHT_CHANGE], every(10)),
    "loss only": ([], every(1)),
}
EPOCHWISE = {
    "checkpoint": [],
    "checkpoint, weight change, distance": [WEIGHT_CHANGE, DISTANCE],
}
FOREACH = "weight change, bare _foreach"  # the peer: no labels, no loss, no files
IDLE, END, FLUSH = "idle", "end", "flush"
REPEATS = 4


class Foreach:
    """Per-step weight change with torch's multi-tensor functions and nothing else."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.now = [p.detach() for p in model.parameters() if p.dim() > 1]
        self.previous = [p.clone() for p in self.now]
        self.rows: list[torch.Tensor] = []

    def step(self) -> None:
        moved = torch._foreach_norm(torch._foreach_sub(self.now, self.previous), 1)
        size = torch._foreach_norm(self.previous, 1)
        self.rows.append(torch.stack(moved) / torch.stack(size))
        torch._foreach_copy_(self.previous, self.now)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Attach recorders that stay open until the module is done."""
    with ExitStack() as open_recorders:

        def attach(model, probes, measure, checkpoints, steps_per_epoch=None) -> Recorder:
            path = tmp_path_factory.mktemp("run")
            return open_recorders.enter_context(
                Recorder(
                    model,
                    path,
                    probes=probes,
                    measure=measure,
                    checkpoints=checkpoints,
                    steps_per_epoch=steps_per_epoch,
                )
            )

        yield attach


def after_a_step(loop: Loop | Finished, work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes where it stands in a loop: after a step, caches used."""
    loop.step()
    return seconds(work)


def in_order(variants: dict[str, Timed], rounds: int) -> dict[str, list[float]]:
    """`interleaved`, but every round begins with the first, for calls that must alternate."""
    taken = [{name: work() for name, work in variants.items()} for _ in range(rounds + 1)][1:]
    return {name: [turn[name] for turn in taken] for name in variants}


def epoch_calls(loop: Loop | Finished, recorders: dict[str, Recorder]) -> dict[str, Timed]:
    """For each recorder, of epochs of two steps: a call that is idle, one that is not, a flush."""
    calls: dict[str, Timed] = {}
    for name, recorder in recorders.items():
        for call in (IDLE, END):
            calls[f"{name}: {call}"] = partial(after_a_step, loop, recorder.step)
        calls[f"{name}: {FLUSH}"] = partial(seconds, recorder.flush)
    return calls


def per_epoch(samples: dict[str, list[float]], steps: int) -> dict[str, list[float]]:
    """Seconds per epoch of the bare and of each recorded loop.

    An epoch of n steps costs n bare steps, n - 1 calls of `Recorder.step` that find nothing to
    do, one that does, and its share of writing results, which happens every 30 seconds if there
    are any. Timing these alone resolves shares far below the noise of an epoch.
    """
    found = {"bare": [steps * step for step in samples["bare"]]}
    for name in EPOCHWISE:
        idle, flush = (median(samples[f"{name}: {call}"]) for call in (IDLE, FLUSH))
        found[name] = [
            bare + (steps - 1) * idle + end + min(1, bare / FLUSH_SECONDS) * flush
            for bare, end in zip(found["bare"], samples[f"{name}: {END}"], strict=True)
        ]
    return found


@pytest.fixture(scope="module")
def fcn_steps(record):
    loops = {name: fcn_loop() for name in ("bare", FOREACH, *STEPWISE)}
    after = {FOREACH: Foreach(loops[FOREACH].model).step}

    def recorded(loop: Loop, recorder: Recorder) -> None:
        recorder.step(loss=loop.step())

    work = {"bare": loops["bare"].step}
    work[FOREACH] = lambda: (loops[FOREACH].step(), after[FOREACH]())
    for name, (probes, schedule) in STEPWISE.items():
        recorder = record(loops[name].model, probes, schedule, at(0))
        work[name] = partial(recorded, loops[name], recorder)
    return interleaved({name: partial(seconds, w, REPEATS) for name, w in work.items()}, 100)


def epoch_recorders(record, model: torch.nn.Module) -> dict[str, Recorder]:
    return {
        name: record(model, probes, epochs(), epochs(), steps_per_epoch=2)
        for name, probes in EPOCHWISE.items()
    }


@pytest.fixture(scope="module")
def fcn_epochs(record):
    loop = fcn_loop()
    calls = epoch_calls(loop, epoch_recorders(record, loop.model))
    return per_epoch(
        in_order({"bare": partial(seconds, loop.step, REPEATS)} | calls, 30), FCN_STEPS
    )


class Finished:
    """Stands for a loop where a step is too slow to take one before every call."""

    def step(self) -> None:
        pass


@pytest.fixture(scope="module")
def resnet(record):
    """Real steps of the full-width model; after each, recorders attached to it take their turn."""
    loop = resnet18_loop()
    stepwise = {"weight change": [WEIGHT_CHANGE], "distance": [DISTANCE]}
    variants = {"bare": partial(seconds, loop.step)}
    for name, probes in stepwise.items():
        recorder = record(loop.model, probes, every(1), at(0))
        variants[name] = partial(seconds, recorder.step, 3)
    variants |= epoch_calls(Finished(), epoch_recorders(record, loop.model))
    samples = in_order(variants, 3)
    steps = {"bare": samples["bare"]} | {
        name: [b + s for b, s in zip(samples["bare"], samples[name], strict=True)]
        for name in stepwise
    }
    return {"step": steps, "epoch": per_epoch(samples, RESNET_STEPS)}


def report(tables, model: str, unit: str, samples: dict[str, list[float]], name: str) -> None:
    if name == "bare":
        return
    recorded, _, schedule = name.partition(", every ")
    schedule = f"every({schedule.split()[0]})" if schedule else "every(1)"
    schedule = "epochs()" if unit == "epoch" else schedule
    bare_ms, ms = (1e3 * sorted(samples[n])[len(samples[n]) // 2] for n in ("bare", name))
    overhead = Overhead.of(samples["bare"], samples[name])
    tables.add(
        TITLE, HEADER, (model, recorded, schedule, unit, f"{bare_ms:.2f}", f"{ms:.2f}", overhead)
    )


@pytest.mark.benchmark(group="FCN 3x256, one step", timer=CLOCK.read)
@pytest.mark.parametrize("name", ["bare", FOREACH, *STEPWISE])
def test_fcn_step(replay, tables, fcn_steps, name):
    report(tables, "FCN 3x256", "step", fcn_steps, name)
    replay(fcn_steps[name])


@pytest.mark.benchmark(group="FCN 3x256, one epoch of 469 steps", timer=CLOCK.read)
@pytest.mark.parametrize("name", ["bare", *EPOCHWISE])
def test_fcn_epoch(replay, tables, fcn_epochs, name):
    report(tables, "FCN 3x256", "epoch", fcn_epochs, name)
    replay(fcn_epochs[name])


@pytest.mark.benchmark(group="ResNet-18, one step", timer=CLOCK.read)
@pytest.mark.parametrize("name", ["bare", "weight change", "distance"])
def test_resnet_step(replay, tables, resnet, name):
    report(tables, "ResNet-18", "step", resnet["step"], name)
    replay(resnet["step"][name])


@pytest.mark.benchmark(group="ResNet-18, one epoch of 391 steps", timer=CLOCK.read)
@pytest.mark.parametrize("name", ["bare", *EPOCHWISE])
def test_resnet_epoch(replay, tables, resnet, name):
    report(tables, "ResNet-18", "epoch", resnet["epoch"], name)
    replay(resnet["epoch"][name])
