"""Which format a file or folder has, found by looking at it, and its contents.

================================================  =============================================
what is there                                     what it is taken for
================================================  =============================================
``x.safetensors``                                 safetensors
``x.index.json``                                  the files that it names
a file that begins as ``torch.save`` writes       ``torch.save``, a Lightning checkpoint
a folder with ``.metadata``, or with such a one   ``torch.distributed.checkpoint``
called ``pytorch_model_fsdp_0``
a folder with ``model.safetensors``,              Transformers, its Trainer, or Accelerate, of
``pytorch_model.bin``, or an index of either      several models too: ``model_1.safetensors``
================================================  =============================================
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from layerscope.errors import LayerscopeError
from layerscope.runs.files import check_readable
from layerscope.runs.sources.contents import Contents
from layerscope.runs.sources.distributed import METADATA, distributed
from layerscope.runs.sources.safetensors_files import safetensors_file, several
from layerscope.runs.sources.sharded import INDEX, sharded
from layerscope.runs.sources.torch_files import torch_file

FOLDERS = ("model.safetensors", "pytorch_model.bin")
FSDP = "pytorch_model_fsdp_0"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
BESIDE = re.compile(
    r"(optimizer|scheduler|scaler|sampler|training_args|rng_state|random_states|custom_checkpoint)"
)
"""Names of files that trainers put beside weights."""
WRITERS = {"trainer_state.json": "Hugging Face Trainer", "random_states_0.pkl": "Accelerate"}


def open_path(path: Path) -> Contents:
    """The contents of a checkpoint; no tensor is read, and nothing executed.

    Raises:
        LayerscopeError: There is nothing, or nothing that is known, or it is damaged, or asks for
            code.
    """
    if path.is_dir():
        found = _folder(path)
        writer = next((who for file, who in WRITERS.items() if (path / file).exists()), None)
        return replace(
            found, path=path, format=f"{writer}, {found.format}" if writer else found.format
        )
    if path.suffix == ".safetensors":
        return safetensors_file(path)
    check_readable(path, f"there is no checkpoint file {path}.", "Check the path.")
    return sharded(path) if path.name.endswith(INDEX) else torch_file(path)


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder holds one checkpoint, by the names in it."""
    return path.is_dir() and bool(_present(path) or _dcp(path))


def looks_like_checkpoint(path: Path) -> bool:
    """Whether an entry of a folder is a checkpoint, by its name, not a thing beside."""
    if path.is_dir():
        return is_checkpoint_folder(path)
    return path.suffix in SUFFIXES and path.name[0] != "." and not BESIDE.match(path.name)


def _dcp(folder: Path) -> Path | None:
    return next((at for at in (folder, folder / FSDP) if (at / METADATA).exists()), None)


def _present(folder: Path) -> list[Path]:
    """The files that hold, or list, the weights; safetensors before what ``torch.save`` made."""
    for name in FOLDERS:
        found = [p for n in (name, f"{name}{INDEX}") if (p := folder / n).exists()]
        if found:
            return found
    return []


def _folder(folder: Path) -> Contents:
    if (inside := _dcp(folder)) is not None:
        return distributed(inside)
    found = _present(folder)
    if len(found) > 1:
        raise LayerscopeError(
            f"{folder} has both {found[0].name} and {found[1].name}.", "Name one of the files."
        )
    if not found:
        raise LayerscopeError(
            f"{folder} is a folder, not a file, and holds no checkpoint of a known format.",
            f"Name a file, or a folder with {', '.join(FOLDERS)}, an index of shards or "
            f"{METADATA}.",
        )
    others = sorted(folder.glob("model_[0-9]*.safetensors"))
    if found[0].name == FOLDERS[0] and others:
        return several(folder, {path.stem: path for path in (found[0], *others)})
    return open_path(found[0])
