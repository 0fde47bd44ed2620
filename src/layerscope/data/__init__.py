"""Data sets: one table of names, one reader for every copy, one stateless order of examples.

``load(config)`` gives a :class:`Dataset` whose training and test parts are tensors that live on one
device; :class:`Batches` says which examples make up which step. Importing this package costs no
torch: the table is read eagerly, everything else on first use.

A new image set is a row of the table. Data of another kind are one file here: the configuration, a
dataclass that derives from `layerscope.config.DataConfig` and has a name, and the function that
makes the `Dataset`. Lists, ``--data`` and stored configurations find it there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerscope.data.table import IMAGE_SETS, ImageSet

if TYPE_CHECKING:
    from layerscope.data.dataset import Dataset, Split, load
    from layerscope.data.loader import Batches

__all__ = ["IMAGE_SETS", "Batches", "Dataset", "ImageSet", "Split", "load"]

_LAZY = {
    "Batches": "layerscope.data.loader",
    "Dataset": "layerscope.data.dataset",
    "Split": "layerscope.data.dataset",
    "load": "layerscope.data.dataset",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
