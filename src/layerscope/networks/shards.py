"""Parameters of which every process holds a part: what is held here, and sums over all processes.

A sharded parameter is a ``DTensor``, as FSDP2 (``fully_shard``) and tensor parallelism make it.
Its shape is that of the whole. Every entry counts once: where it is replicated, on the first
process of that dimension of the mesh.

Before processes exchange anything they agree that none has failed, since one that left would keep
the others waiting, or be answered with numbers of something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from layerscope.errors import DivergedError, LayerscopeError


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed over processes, replicated ones on a mesh included."""
    return type(tensor).__name__ == "DTensor"


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process has to ask for it where it is sharded."""
    with torch.no_grad():
        return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore


def own(tensor: Tensor) -> Tensor:
    """The entries that count on this process, each entry of the whole on one; empty for none.

    Plain tensors, which every process has, count on that of rank 0.
    """
    held = local(tensor)
    return held if _counts(tensor) else held.new_empty(0)


def _counts(tensor: Any) -> bool:
    """Whether what is held here counts here, and not where it is held too.

    A mesh of some of the processes is one of several that hold the same: that of rank 0 counts.
    """
    if not is_sharded(tensor):
        return dist.get_rank() == 0
    mesh = tensor.device_mesh
    if (position := mesh.get_coordinate()) is None or not bool((mesh.mesh == 0).any()):
        return False
    pairs = zip(position, tensor.placements, strict=True)
    return all(at == 0 for at, placement in pairs if placement.is_replicate())


def entries(tensor: Tensor, flat: Tensor, gather: Callable[[Tensor], Tensor] = whole) -> Tensor:
    """Entries of a tensor by their places in it flattened; where it is sharded, zero elsewhere.

    Added up over all processes they are those of the whole. Nothing is copied but these entries,
    save for shards that are no blocks of the whole (``_StridedShard``), of which each process
    gathers the whole tensor for a moment.

    Args:
        tensor: A tensor of any strides.
        flat: Places in the whole, from 0.
        gather: Gathers a tensor.
    """
    if is_sharded(tensor) and not _in_blocks(tensor):
        tensor = gather(tensor)
        return _pick(tensor, flat) if dist.get_rank() == 0 else tensor.new_zeros(len(flat))
    if not is_sharded(tensor):
        return _pick(tensor, flat)
    held, first = local(tensor), _offset(tensor)
    places = [p - o for p, o in zip(_places(flat, tensor.shape), first, strict=True)]
    here = torch.full_like(flat, _counts(tensor), dtype=torch.bool)
    for place, size in zip(places, held.shape, strict=True):
        here &= (place >= 0) & (place < size)
    found = held.new_zeros(len(flat))
    found[here.to(held.device)] = held[tuple(place[here].to(held.device) for place in places)]
    return found


def _places(flat: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    return torch.unravel_index(flat, shape) if len(shape) else ()


def _pick(tensor: Tensor, flat: Tensor) -> Tensor:
    """Entries of a plain tensor, without making it contiguous first."""
    flat = flat.to(tensor.device)
    if not len(flat):
        return tensor.new_empty(0)
    if tensor.is_contiguous():
        return tensor.view(-1).index_select(0, flat)
    return tensor[_places(flat, tensor.shape)] if tensor.dim() else tensor.reshape(1)[flat]


def _in_blocks(tensor: Any) -> bool:
    from torch.distributed.tensor import Replicate, Shard

    return all(type(placement) in (Shard, Replicate) for placement in tensor.placements)


def _offset(tensor: Any) -> tuple[int, ...]:
    """Where in the whole the block that is held here begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, first = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    if tuple(shape) != tuple(local(tensor).shape):
        raise LayerscopeError(
            f"a shard has shape {tuple(local(tensor).shape)} where {tuple(shape)} was expected.",
            "Shard with fully_shard or parallelize_module, or measure from checkpoints.",
        )
    return tuple(first) or (0,) * tensor.dim()


class Shards:
    """What processes that share a model's parameters need to measure it together.

    Args:
        tensors: The model's parameters and buffers by name.

    Attributes:
        names: The sharded ones.

    Raises:
        LayerscopeError: A parameter waits to be summed, or processes have different ones.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        found: dict[str, Any] = {k: t for k, t in tensors.items() if is_sharded(t)}
        self.names = frozenset(found)
        for name, tensor in found.items():
            if any(placement.is_partial() for placement in tensor.placements):
                raise LayerscopeError(
                    f"parameter {name!r} is a partial sum on every process.",
                    "Redistribute it: tensor.redistribute(placements=[Replicate()]).",
                )
        first = next(iter(found.values()))
        self._device = torch.device(first.device_mesh.device_type)
        self._failed = False
        if not self._agree_on([[name, list(tensor.shape)] for name, tensor in tensors.items()]):
            raise LayerscopeError(
                "the processes have different parameters, as in pipeline parallelism.",
                "Record each stage apart, with its own process group, or measure checkpoints "
                "gathered afterwards: Run.from_checkpoints.",
            )

    def _agree_on(self, what: list[Any]) -> bool:
        """Whether all processes say the same."""
        text = json.dumps(what).encode()
        own = torch.tensor([int.from_bytes(sha256(text).digest()[:7], "little")])
        least, most = (self._reduced(own, how) for how in (dist.ReduceOp.MIN, dist.ReduceOp.MAX))
        return bool(least == most)

    def of(self, weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
        """The named weights as they are shared.

        Raises:
            LayerscopeError: One that is sharded is gathered at this moment, as in the middle of a
                step.
        """
        found = {name: weights[name] for name in names}
        for name, tensor in found.items():
            if name in self.names and not is_sharded(tensor):
                raise LayerscopeError(
                    f"parameter {name!r} is gathered at this moment, and may not be up to date.",
                    "Call recorder.step() after optimizer.step(), when parameters are sharded "
                    "again; else call model.reshard() first.",
                )
        return found

    def own(self, weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
        """The entries of the named weights that count on this process, see `own`."""
        return {name: own(tensor) for name, tensor in self.of(weights, names).items()}

    def total(self, sums: Tensor, largest: bool = False) -> Tensor:
        """Sums, or largest values, over all processes, each of which has to ask.

        Args:
            sums: Numbers of this process.
            largest: Take the largest instead; not a number wins.
        """
        self.agree()
        if not largest:
            return self._reduced(sums, dist.ReduceOp.SUM)
        both = torch.stack([sums.nan_to_num(nan=0.0, posinf=torch.inf), sums.isnan().to(sums)])
        values, gone = self._reduced(both, dist.ReduceOp.MAX)
        return torch.where(gone > 0, torch.nan, values)

    def gather(self, tensor: Tensor) -> Tensor:
        """All of a tensor, on every process, each of which has to ask."""
        if not is_sharded(tensor):
            return tensor
        self.agree()
        return whole(tensor)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        found = values.detach().to(self._device, copy=True)
        dist.all_reduce(found, how)
        return found.to(values.device)

    def agree(self, wish: bool = False) -> bool:
        """Whether the process of rank 0 wishes something. Every process has to ask.

        Raises:
            LayerscopeError: Another process has failed.
            DivergedError: It found that the training diverged.
        """
        failed, wished = self._exchange(False, wish)
        if failed:
            self._failed = True
            diverged, reason = self._told(failed[0], None)
            kind = DivergedError if diverged else LayerscopeError
            raise kind(
                f"the process of rank {failed[0]} failed: {reason}",
                "Its own error says how to mend it.",
            )
        return wished

    def fail(self, error: Exception) -> None:
        """Tell the other processes of an error, where they do not know; they agree meanwhile."""
        if self._failed:
            return
        self._failed = True
        reason = error.message if isinstance(error, LayerscopeError) else repr(error)
        failed, _ = self._exchange(True, False)
        self._told(failed[0], (isinstance(error, DivergedError), reason))

    def _exchange(self, failed: bool, wish: bool) -> tuple[list[int], bool]:
        """Ranks of the processes that failed, and what that of rank 0 wishes."""
        flags = torch.zeros(dist.get_world_size() + 1, dtype=torch.int32)
        flags[dist.get_rank()] = failed
        flags[-1] = wish and dist.get_rank() == 0
        *ranks, wished = self._reduced(flags, dist.ReduceOp.SUM).tolist()
        return [rank for rank, bad in enumerate(ranks) if bad], bool(wished)

    def _told(self, rank: int, said: tuple[bool, str] | None) -> tuple[bool, str]:
        """What the process of one rank says, on every process."""
        found: list[Any] = [said]
        device = None if self._device.type == "cpu" else self._device
        dist.broadcast_object_list(found, src=rank, device=device)
        return found[0]
