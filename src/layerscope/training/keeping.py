"""The folder of a run that trains: what is found there, kept on the way, and noted at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from layerscope.config import RunConfig, to_dict
from layerscope.errors import LayerscopeError
from layerscope.recording.recorder import Recorder
from layerscope.runs.resume import save_state
from layerscope.runs.store import Run
from layerscope.training.problem import Problem

TURN = ".turn"
"""Name of the lock file that says whose turn it is to train a run."""


def existing_run(config: RunConfig, path: Path) -> Run | None:
    """The run that stands in ``path``, if it is one of this configuration.

    Raises:
        LayerscopeError: It is one of another configuration, is being trained, or cannot resume.
    """
    if not (path / "run.json").exists():
        return None
    run = Run.open(path)
    if to_dict(run.config) != to_dict(config):
        raise LayerscopeError(
            f"{path} holds a run of another configuration, see its run.json.",
            "Choose another folder for this one.",
        )
    if run.status == "running":
        raise LayerscopeError(f"another process is training {path}.", "Wait for it to end.")
    if run.status == "interrupted" and not (path / "resume.safetensors").exists():
        if run.steps[-1:] > [0]:
            raise LayerscopeError(
                f"{path} is interrupted and its resume.safetensors is gone.",
                "Put the file back, or choose another folder; its checkpoints are kept.",
            )
        _clear(path)  # stopped before the first step: nothing in it but where it begins
        return None
    return run


def _clear(path: Path) -> None:
    """Empty the folder of a run, but for what says whose turn it is."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != TURN:
            entry.unlink()


@dataclass
class Keeper:
    """Writes the state to resume from, at most every ``seconds``."""

    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    seconds: float
    written: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        """Write it if it is time."""
        if time.monotonic() - self.written > self.seconds:
            self.write()

    def write(self) -> None:
        """Write it now; measurements first, so that none before this step is lost."""
        self.recorder.flush()
        save_state(self.path, self.model, self.optimizer, self.recorder.state_dict())
        self.written = time.monotonic()


def note_outcome(run: Run, made: Problem, config: RunConfig, outcome: Mapping[str, float]) -> None:
    """Keep in the manifest how good the model has become, and on which data.

    Args:
        run: The run.
        made: What it trained.
        config: Its configuration.
        outcome: Test loss and error.
    """
    run.note(
        **outcome,
        task=made.dataset.task,
        data=made.dataset.name,
        data_note=made.dataset.note,
        n_train=len(made.dataset.train),
        n_test=len(made.dataset.test),
        epochs=config.epochs,
    )
