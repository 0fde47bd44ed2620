"""What two, or four, processes do in `test_sharded`: everything in one go, as starting is slow."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.sharded import MLP, Mixed, batch, outcome, own_part, train
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from layerscope.networks.shards import Shards
from layerscope.networks.task import Task
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange
from layerscope.probes.base import MomentProbe, Variable
from layerscope.probes.parts import Keep
from layerscope.recording.recorder import Recorder
from layerscope.runs import checkpoints
from layerscope.schedule import at, every, never

SUMS = (
    WeightChange(minimum_dimensions=1),
    WeightChange(p=2.0),
    WeightChange(p=3.0, minimum_dimensions=1),
    WeightChange(reduction="elementwise", minimum_dimensions=1),
    WeightChange(reduction="angle"),
    DistanceFromInitialisation(),
)
SAMPLES = (
    WeightChange(sample=8),
    WeightChange(p=2.0, sample=8, minimum_dimensions=1, subset_seed=3),
    WeightChange(reduction="median", sample=6),
    WeightChange(size_matched=True, sample=9),
    DistanceFromInitialisation(sample=4),
)
ALL: dict[str, Any] = {
    "probes": [*SUMS, *SAMPLES],
    "measure": every(1),
    "checkpoints": every(1),
    "steps_per_epoch": 2,
}
FEW = {**ALL, "probes": [SUMS[0], SUMS[4], SUMS[5], SAMPLES[0], SAMPLES[2]]}
LEAST: dict[str, Any] = {"measure": every(1), "checkpoints": every(1)}


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def fsdp(mesh=None, dtype=torch.float32) -> nn.Module:
    model = seeded(Mixed).to(dtype)
    for module in (model.first, model.second):
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(mesh) -> nn.Module:
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    return parallelize_module(seeded(MLP), mesh, plan)


def both_ways(make, path: Path, part: slice, options=FEW) -> dict[str, Any]:
    """What this process holds after training with a recorder and without."""
    recorded = train(make(), path, part, **options)
    return {
        "recorded": recorded.weights,
        "bare": train(make(), part=part).weights,
        "latest": recorded.recorder.latest(SUMS[0])["change"],
        "kinds": [layer.kind for layer in recorded.recorder.layers],
    }


@dataclass(frozen=True)
class Fragile(MomentProbe):
    """Fails on one process, between sums."""

    variables = {"one": Variable("one")}  # noqa: RUF012
    additive = True

    def select(self, layers):
        return layers

    def measure(self, moment, layers):
        if moment.step == 2 and dist.get_rank() == 1:
            raise MemoryError("out of memory")
        return {"one": moment.total(torch.ones(len(layers)), False)}

    def figures(self, dataset):
        return []


def full_disk_on_the_first(path: Path) -> str:
    """The third checkpoint cannot be written, which only the process that writes can know."""
    written, stream = [], checkpoints.stream

    def full(file, tensors, read, metadata):
        written.append(1)
        if len(written) == 3:
            read(next(iter(tensors)))
            raise OSError(errno.ENOSPC, "No space left on device")
        stream(file, tensors, read, metadata)

    checkpoints.stream = full
    try:
        return outcome(lambda: train(fsdp(), path, own_part(), probes=[SUMS[5]], **LEAST))
    finally:
        checkpoints.stream = stream


def gathered(path: Path) -> str:
    """Say that a step was taken while parameters are gathered."""
    model = fsdp()

    def work():
        with Recorder(model, path, probes=[WeightChange()], **LEAST) as recorder:
            model.unshard()
            recorder.step()

    return outcome(work)


def largest() -> list[float]:
    """The largest of 1 and 2, of a number and none, of a number and infinity, of none and none."""
    nan, inf = torch.nan, torch.inf
    held = torch.tensor([[1.0, nan, 3.0, nan], [2.0, 1.0, inf, nan]])[dist.get_rank()]
    return Shards(dict(fsdp().named_parameters())).total(held, True).tolist()


def partial(mesh) -> nn.Module:
    model = nn.Linear(2, 2)
    weight = DTensor.from_local(torch.ones(2, 2), mesh, [Partial()])
    model.weight = nn.Parameter(weight)
    return model


def stage() -> nn.Module:
    """A model of which each process has another part."""
    return fully_shard(nn.Sequential(*(nn.Linear(4, 4) for _ in range(1 + dist.get_rank()))))


def recorder(model, path: Path, **options: Any):
    return outcome(lambda: Recorder(model, path, checkpoints=at(), measure=at(), **options))


def two(path: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    replicas = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    rank = dist.get_rank()
    found = {
        "fsdp": both_ways(fsdp, path / "fsdp", own_part(), ALL),
        "hsdp": both_ways(lambda: fsdp(replicas), path / "hsdp", own_part()),
        "tensor": both_ways(lambda: tensor_parallel(mesh), path / "tensor", own_part(False)),
        "ddp": both_ways_ddp(path / "ddp"),
        "disk": full_disk_on_the_first(path / "disk"),
        "loss": outcome(
            lambda: train(
                fsdp(),
                path / "loss",
                own_part(),
                lambda step, loss: loss * (torch.nan if (step, rank) == (2, 1) else 1),
                **LEAST,
            )
        ),
        "fragile": outcome(lambda: train(fsdp(), path / "fragile", probes=[Fragile()], **LEAST)),
        "taken": outcome(lambda: train(fsdp(), path / "fsdp", own_part(), **LEAST)),
        "gathered": gathered(path / "gathered"),
        "largest": largest(),
    }
    kept = {"probes": [WeightChange(), *SAMPLES[:1]], "measure": every(1), "checkpoints": never()}
    train(fsdp(dtype=torch.bfloat16), path / "half", own_part(), **FEW)
    train(fsdp(), path / "kept", own_part(), keep=Keep("cpu", torch.bfloat16), **kept)
    task = {"task": Task.regression(), "batch": batch(0)}
    shown = Recorder(fsdp(), path / "x", checkpoints=never(), measure=never(), **task)
    found["refused"] = {
        "gradient": recorder(fsdp(), path / "x", probes=[GradientMagnitude()], **task),
        "median": recorder(fsdp(), path / "x", probes=[WeightChange(reduction="median")]),
        "matched": recorder(fsdp(), path / "x", probes=[WeightChange(size_matched=True)]),
        "resume": recorder(fsdp(), path / "x", resume=True),
        "state": outcome(shown.state_dict),
        "partial": recorder(partial(mesh), path / "x"),
        "some": recorder(stage(), path / "x"),
    }
    return found


def both_ways_ddp(path: Path) -> dict[str, Any]:
    def make():
        return nn.parallel.DistributedDataParallel(seeded(Mixed))

    recorded = train(make(), path, own_part(), **FEW)
    return {
        "recorded": recorded.weights,
        "bare": train(make(), part=own_part()).weights,
        "run": outcome(lambda: recorded.recorder.run),
    }


def four(path: Path) -> dict[str, Any]:
    """Two-dimensional meshes: replicas of shards, and shards of what tensor parallelism shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def make():
        return fully_shard(tensor_parallel(mesh["tensor"]), mesh=mesh["data"])

    half = slice(mesh.get_local_rank("data"), None, 2)
    return {
        "hsdp": both_ways(lambda: fsdp(mesh), path / "hsdp", own_part()),
        "both": both_ways(make, path / "both", half),
    }
