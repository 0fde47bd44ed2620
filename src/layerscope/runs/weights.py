"""The checkpoints of one run: files of its own, and references to those of somebody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from layerscope.runs.checkpoints import LazyTensors, Tensors, check_mark, write_tensors
from layerscope.runs.sources.gathering import Member
from layerscope.runs.sources.references import is_gone, open_reference, write_reference


class KeptWeights:
    """The checkpoints of one run, by step.

    Args:
        folder: Where they are.

    Attributes:
        written: The steps that were written by this object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: set[int] = set()

    @property
    def steps(self) -> list[int]:
        """Steps of all, ascending; 0 is the initialisation."""
        return sorted({*self._files("safetensors"), *self._references})

    @property
    def gone(self) -> set[int]:
        """Steps of references that lead nowhere."""
        return {step for step, path in self._references.items() if is_gone(path)}

    @property
    def _references(self) -> dict[int, Path]:
        """The checkpoints that are elsewhere, each with the file that says where."""
        held = self._files("safetensors")
        return {step: path for step, path in self._files("json").items() if step not in held}

    def _files(self, suffix: str) -> dict[int, Path]:
        paths = self._folder.glob(f"[!.]*.{suffix}")
        names = {path.stem: path for path in paths if path.stem.isdecimal()}
        return {int(s): path for s, path in names.items() if s == f"{int(s):09d}"}

    def _path(self, step: int, suffix: str = "safetensors") -> Path:
        return self._folder / f"{step:09d}.{suffix}"

    def read(
        self, step: int, mark: Mapping[str, str], device: torch.device | str
    ) -> LazyTensors | None:
        """Weights and buffers at one step, each read when it is asked for; None without any.

        Args:
            step: The step.
            mark: What the metadata must say of whose it is.
            device: Where tensors are put.

        Raises:
            LayerscopeError: A file is damaged, or of another step or run; or a reference leads to
                one that is gone or was changed.
        """
        mark = {**mark, "step": str(step)}
        if (path := self._path(step)).exists():
            own = Tensors(path, device)
            check_mark(own, mark)
            return own
        if (elsewhere := self._path(step, "json")).exists():
            return open_reference(elsewhere, mark, device)
        return None

    def write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        mark: Mapping[str, str],
        read: Callable[[str], Tensor] | None,
    ) -> None:
        """Keep weights and buffers; ``read`` gives their values one at a time."""
        write_tensors(self._path(step), tensors, {"step": str(step), **mark}, read)
        self.written.add(step)

    def refer(self, member: Member, run: str) -> None:
        """Keep where a checkpoint is, in a run of this identity."""
        write_reference(self._path(member.step, "json"), member, run)
        self.written.add(member.step)
