"""Processes that share a model's parameters: they measure and fail as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.names import named_modules, named_state
from layerscope.networks.shards import Shards, is_sharded
from layerscope.probes.base import MomentProbe

FSDP = "FullyShardedDataParallel"


def shards_of(model: nn.Module) -> Shards | None:
    """How a model's parameters are spread over processes; None where each holds all.

    Raises:
        LayerscopeError: They are in a way that cannot be recorded: by FSDP1, as partial sums, or
            each process has parameters of its own.
    """
    state = named_state(model)
    found = [
        f"parameter {name!r} is a ShardedTensor"
        for name, tensor in state.items()
        if type(tensor.data).__name__ == "ShardedTensor"
    ] + [
        f"{f'module {name!r}' if name else 'the model'} is sharded by {FSDP}"
        for name, module in named_modules(model)
        if any(cls.__name__ == FSDP for cls in type(module).__mro__)
    ]
    if found:
        raise LayerscopeError(
            f"{found[0]}, which cannot be recorded.",
            "Shard it with torch.distributed.fsdp.fully_shard, which keeps names and shapes, or "
            "measure checkpoints gathered afterwards: Run.from_checkpoints.",
        )
    return Shards(state) if any(is_sharded(tensor) for tensor in state.values()) else None


def refuse_unshared(probe: MomentProbe) -> None:
    """Refuse a probe that processes with a part of the parameters each cannot measure together.

    Raises:
        LayerscopeError: It needs more than weights, or is no sum over them.
    """
    name, needs = probe.expression, sorted(probe.needed - {"previous", "initial"})
    afterwards = f"measure({type(probe).__name__}(...), run, ...)"
    if needs:
        raise LayerscopeError(
            f"{name} needs {' and '.join(needs)} and cannot be recorded while the parameters are "
            "sharded.",
            f"Measure it from checkpoints, on one process: {afterwards}.",
        )
    if probe.sampling is None and not probe.additive:
        raise LayerscopeError(
            f"{name} does not add up over the entries of a layer, and cannot be recorded while "
            "they are sharded.",
            "Record it on a sample, which every process gathers, where it has that setting "
            f"(sample=4096); or measure it from checkpoints, on one process: {afterwards}.",
        )


class Together:
    """Makes a failure of one process that of all, where they share parameters.

    Args:
        shards: How they share them; None where they do not, and each process is by itself.
    """

    def __init__(self, shards: Shards | None) -> None:
        self._shards = shards
        self.wished = False
        """What the process of rank 0 wished when they last agreed."""

    @contextmanager
    def as_one(self, wish: bool = False) -> Iterator[None]:
        """Do something on every process; what fails on one fails on all.

        Args:
            wish: What others should know of that of rank 0.

        Raises:
            Exception: What failed here.
            LayerscopeError: Something failed elsewhere.
        """
        if self._shards is None:
            yield
            return
        try:
            yield
        except Exception as error:
            self._shards.fail(error)
            raise
        self.wished = self._shards.agree(wish)
