"""A training process that is killed at a chosen moment, also in the middle of writing a file."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from layerscope.config import FCN, SGD, Adam, Plateau, RunConfig
from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.runs import checkpoints, files
from layerscope.runs.streaming import stream
from layerscope.training.loop import train

PROBES = (WeightChange(), DistanceFromInitialisation())
CONFIGS = {
    name: RunConfig(
        model=FCN(depth=2, width=16),
        optimizer=optimizer,
        milestones=(1,),
        epochs=3,
        batch_size=512,
        checkpoints="every(4)",
    )
    for name, optimizer in {"sgd": SGD(0.1, momentum=0.9), "adam": Adam(0.01)}.items()
}
CONFIGS["plateau"] = replace(
    CONFIGS["sgd"], milestones=(), schedule="plateau", plateau=Plateau(0, 0.9), epochs=4
)


class Bomb:
    """Counts events and kills the process at the one with the given number."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.count = 0

    def tick(self, *_: object) -> None:
        self.count += 1
        if self.count == self.moment:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def stream(self, file, *arguments) -> None:
        """Half a file, a moment, the whole file, a moment."""
        file.write(b"\x10\x00\x00")
        file.flush()
        self.tick()
        file.seek(0)
        stream(file, *arguments)
        file.flush()
        self.tick()

    def replace(self, source, target) -> None:
        """A moment before the renaming and one after it."""
        self.tick()
        os.rename(source, target)
        self.tick()


def run(config: RunConfig, path: str | Path, bomb: Bomb) -> None:
    """Train with a bomb in every place that writes; the state to resume is kept at every step."""
    checkpoints.stream = bomb.stream
    files.os.replace = bomb.replace
    train(config, path, probes=PROBES, accelerator="cpu", advance=bomb.tick, resume_seconds=0.0)


def serve() -> None:
    """Train each line of ``config path moment`` in a forked child; print how it ended."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        name, path, moment = line.split()
        child = os.fork()
        if child == 0:
            bomb = Bomb(int(moment))
            run(CONFIGS[name], path, bomb)
            Path(path).with_suffix(".count").write_text(str(bomb.count))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
