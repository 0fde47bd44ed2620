"""What of the weights a probe sees: all of them, a sample, or what this process holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.functional.norms import Total, here
from layerscope.functional.sampling import draw, layer_seed, split
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import Weights
from layerscope.networks.shards import Shards, entries
from layerscope.probes.sampling import Sampling


class Part(Protocol):
    """A view of weights, equal to another one where both show the same."""

    @property
    def text(self) -> str:
        """Which entries are shown; empty for all."""
        ...

    @property
    def total(self) -> Total:
        """Adds up over all that hold entries of what is shown."""
        ...

    def layers(self, layers: LayerMap) -> LayerMap:
        """A probe's layers as they are shown."""
        ...

    def of(self, weights: Weights, names: Iterable[str]) -> Weights:
        """The named weights as they are shown."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Whole:
    """All entries."""

    text: str = ""

    @property
    def total(self) -> Total:
        """All entries are here."""
        return here

    def layers(self, layers: LayerMap) -> LayerMap:
        """The layers themselves."""
        return layers

    def of(self, weights: Weights, names: Iterable[str]) -> Weights:
        """The weights themselves, whatever their names."""
        del names
        return weights


@dataclass(frozen=True)
class Own:
    """The entries that count on this process, each of the model on one."""

    shards: Shards
    text: str = ""

    @property
    def total(self) -> Total:
        """Sums are those over all processes."""
        return self.shards.total

    def layers(self, layers: LayerMap) -> LayerMap:
        """The layers themselves: their sizes are those of the whole."""
        return layers

    def of(self, weights: Weights, names: Iterable[str]) -> Weights:
        """What of the named weights counts here."""
        return self.shards.own(weights, names)


@dataclass(frozen=True)
class Sample:
    """A random choice of entries of each layer, gathered from all processes that hold some.

    Attributes:
        sampling: How many, and the seed.
        sizes: Every parameter to choose from, with its number of entries.
        flat: Places in every parameter flattened.
        shards: Where they are spread over processes.
    """

    sampling: Sampling
    sizes: tuple[tuple[str, int], ...]
    flat: Mapping[str, Tensor] = field(compare=False)
    shards: Shards | None = field(default=None, compare=False)

    @classmethod
    def drawn(cls, sampling: Sampling, layers: LayerMap, shards: Shards | None) -> Sample:
        """Draw the sample of some layers."""
        sizes: dict[str, int] = {}
        flat: dict[str, Tensor] = {}
        for layer in layers:
            own = {name: math.prod(shape) for name, shape in layer.parameters.items()}
            n = list(own.values())
            chosen = draw(sum(n), sampling.size, layer_seed(sampling.seed, layer.name, n))
            flat |= zip(own, split(chosen, n), strict=True)
            sizes |= own
        return cls(sampling, tuple(sizes.items()), flat, shards)

    @property
    def text(self) -> str:
        """Size, seed and what was chosen from."""
        return f"{self.sampling.size} by {self.sampling.seed}"

    @property
    def total(self) -> Total:
        """The whole sample is on every process."""
        return here

    def layers(self, layers: LayerMap) -> LayerMap:
        """The layers with as many entries in every parameter as were chosen."""
        found = (
            replace(layer, parameters={name: (len(self.flat[name]),) for name in layer.parameters})
            for layer in layers
        )
        return LayerMap(tuple(found), layers.aliases)

    def of(self, weights: Weights, names: Iterable[str]) -> Weights:
        """The chosen entries of the named weights, each as one flat tensor."""
        if self.shards is None:
            return {name: entries(weights[name], self.flat[name]) for name in names}
        shared = self.shards.of(weights, names)
        gather = self.shards.gather
        found = {name: entries(shared[name], self.flat[name], gather) for name in shared}
        return found | self._gathered({k: v for k, v in found.items() if k in self.shards.names})

    def _gathered(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries of sharded parameters, those that others hold filled in; a sum per type."""
        found: dict[str, Tensor] = {}
        for dtype in dict.fromkeys(part.dtype for part in parts.values()):
            own = {name: part for name, part in parts.items() if part.dtype == dtype}
            assert self.shards is not None
            summed = self.shards.total(torch.cat(list(own.values())))
            lengths = [len(part) for part in own.values()]
            found |= zip(own, summed.split(lengths), strict=True)
        return found


@dataclass(frozen=True)
class Keep:
    """Where, and as what, a recorder keeps the weights that probes compare with.

    Those of the moment before and of the start are each as large as the model. By default they
    are where the parameters are, and of their type.

    A change is seen only above what the kept type resolves: a float32 weight kept as bfloat16 is
    off by up to 0.4% of itself, so that even a model that stands still seems to change by 0.14%
    (ratio, p = 1), and smaller changes drown. Weights that are bfloat16 themselves lose nothing.
    Arithmetic is float32 or better in any case.

    Attributes:
        device: Where; those of the parameters where it is None. Weights come back one layer at
            a time when they are compared, so that the model is never twice on its device.
        dtype: A floating-point type; that of each parameter where it is None.
    """

    device: str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and not (
            self.dtype.is_floating_point and self.dtype.itemsize >= 2
        ):
            raise LayerscopeError(
                f"weights cannot be kept as {self.dtype}.",
                "Use torch.bfloat16, torch.float16, torch.float32 or torch.float64.",
            )
        try:
            torch.device(self.device or "cpu")
        except (RuntimeError, TypeError) as error:
            raise LayerscopeError(
                f"weights cannot be kept on {self.device!r}.", 'Use for example device="cpu".'
            ) from error

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.") if self.dtype else "as they are"
        return dtype + (f", on {self.device}" if self.device else "")

    @property
    def apart(self) -> bool:
        """Whether weights are kept elsewhere, or as something else, than they are."""
        return self.device is not None or self.dtype is not None

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy to keep."""
        dtype = self.dtype if tensor.is_floating_point() else None
        return tensor.to(device=self.device, dtype=dtype, copy=True)

    def back(self, kept: Weights, now: Weights) -> Weights:
        """Kept weights as the present ones are, and where these are, each when it is asked for."""
        return _Back(kept, now) if self.apart else kept


class _Back(Mapping[str, Tensor]):
    def __init__(self, kept: Weights, now: Weights) -> None:
        self._kept, self._now = kept, now

    def __getitem__(self, name: str) -> Tensor:
        like = self._now[name]
        return self._kept[name].to(like.device, like.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def one_by_one(
    measure: Callable[[LayerMap], dict[str, Tensor]], layers: LayerMap
) -> dict[str, Tensor]:
    """What is measured of layers one after the other, along the first dimension.

    Args:
        measure: Measures some layers.
        layers: All of them. One without entries goes with the next that has some, or the last.
    """
    found = [measure(LayerMap(group, layers.aliases)) for group in _groups(layers)]
    return {name: torch.cat([values[name] for values in found]) for name in found[0]}


def _groups(layers: LayerMap) -> Sequence[tuple]:
    groups: list[tuple] = []
    pending: tuple = ()
    for layer in layers:
        pending = (*pending, layer)
        if layer.n_parameters:
            groups.append(pending)
            pending = ()
    if pending:
        groups[-1:] = [(groups[-1] if groups else ()) + pending]
    return groups
