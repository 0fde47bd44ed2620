"""Processes that share a model's parameters: loops to train in, and what each ends with."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from layerscope.networks.shards import local
from layerscope.recording.recorder import Recorder

STEPS = 4
ROOT = Path(__file__).parent.parent


def start(rank: int, size: int, folder: str, work: Callable[[Path], dict[str, Any]]) -> None:
    """Join the other processes, work, and leave what came of it in a file."""
    torch.set_num_threads(1)
    path = Path(folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{path / 'meet'}", rank=rank, world_size=size
    )
    found = work(path)
    torch.save(found, path / f"{rank}.pt")
    dist.destroy_process_group()


def results(folder: Path, size: int, work: Callable[[Path], dict[str, Any]]) -> list[Any]:
    """Work in so many processes at once, forked from one that has imported everything."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.sharded", work.__module__, work.__name__]
    done = subprocess.run(
        [*command, str(folder), str(size)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def serve(module: str, name: str, folder: str, size: str) -> None:
    """Fork the processes that work."""
    work = getattr(importlib.import_module(module), name)
    arguments = (int(size), folder, work)
    torch.multiprocessing.start_processes(start, arguments, nprocs=int(size), start_method="fork")


class Mixed(nn.Module):
    """Shapes that do not divide: 5 rows, 1 row, vectors of 5, 3 and 1, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.norm = nn.LayerNorm(5)
        self.second = nn.Linear(5, 3, bias=False)
        self.last = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.last(torch.tanh(self.second(self.norm(self.first(inputs)))))


class MLP(nn.Module):
    """What tensor parallelism shards, with a normalisation that it leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(7, 6)
        self.down = nn.Linear(6, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.down(torch.tanh(self.up(inputs)))).square()


def batch(step: int, part: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of a step, or a part of them."""
    generator = torch.Generator().manual_seed(step)
    draw = torch.randn(8, 8, generator=generator)
    return draw[part, :7], draw[part, 7:]


def own_part(across: bool = True) -> slice:
    """The examples of this process; all where processes share each example."""
    return slice(dist.get_rank(), None, dist.get_world_size()) if across else slice(None)


@dataclass
class Trained:
    """A model after training: what this process holds, and what its recorder said."""

    model: nn.Module
    weights: dict[str, torch.Tensor]
    recorder: Recorder | None = None


def train(
    model: nn.Module,
    path: Path | None = None,
    part: slice = slice(None),
    loss_of: Callable[[int, torch.Tensor], Any] = lambda step, loss: loss,
    **options: Any,
) -> Trained:
    """Train for some steps, recorded where there is a path."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = None if path is None else Recorder(model, path, **options)

    def steps() -> None:
        for step in range(STEPS):
            inputs, targets = batch(step, part)
            dtype = next(model.parameters()).dtype
            loss = (model(inputs.to(dtype)) - targets.to(dtype)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(loss=loss_of(step, loss.detach()))

    with warnings.catch_warnings():
        # gloo's reduce-scatter and all-gather are made of other operations
        warnings.simplefilter("ignore")
        if recorder is None:
            steps()
        else:
            with recorder:
                steps()
    held = {name: local(t.detach()).clone() for name, t in model.state_dict().items()}
    return Trained(model, held, recorder)


def outcome(work: Callable[[], Any]) -> str:
    """What an action raises: type and message in one line; empty if nothing."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return ""


if __name__ == "__main__":
    serve(*sys.argv[1:])
