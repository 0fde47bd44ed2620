"""One checkpoint, from memory or disk, as tensors by name that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import LazyTensors
from layerscope.runs.sources.choosing import choose, is_extra
from layerscope.runs.sources.contents import Chosen, Contents
from layerscope.runs.sources.opening import open_path

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Opened:
    """A checkpoint, and where in it the weights were found.

    Attributes:
        state: The weights.
        key: Their key, empty for all of the checkpoint.
        contents: The file or folder; None for what is in memory.
    """

    state: StateDict
    key: str
    contents: Contents | None


def read_state_dict(source: StateDict | str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of one checkpoint by name.

    What modules keep beside tensors (``get_extra_state``) is left out.

    Args:
        source: A state dict, or a file or folder of a format that
            `layerscope.runs.sources.opening` knows. Nothing that a file holds is executed.
        key: Where in it the weights are, e.g. ``"model"``; by default they are found, see
            `layerscope.runs.sources.choosing.choose`.

    Raises:
        LayerscopeError: The file is missing, damaged, or holds something else.
    """
    return dict(opened(source, key).state)


def opened(source: StateDict | str | Path, key: str | None = None) -> Opened:
    """As `read_state_dict`, but tensors of a file are read when they are asked for."""
    if isinstance(source, LazyTensors):
        return Opened(source, "", None)
    if isinstance(source, Mapping):
        return Opened(_only_tensors(source), "", None)
    contents = open_path(Path(source))
    found, entries = choose(contents.tree, key, str(source))
    return Opened(Chosen(contents, entries), found, contents)


def _only_tensors(state: StateDict) -> dict[str, Tensor]:
    kept = {name: value for name, value in state.items() if not is_extra(name)}
    others = [name for name, value in kept.items() if not isinstance(value, Tensor)]
    if others:
        raise LayerscopeError(
            f"the state dict holds more than tensors: {', '.join(map(str, others[:5]))}.",
            'Pass the state dict inside, e.g. loaded["model"].',
        )
    return kept
