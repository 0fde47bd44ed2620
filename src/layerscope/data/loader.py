"""Which examples make up which step: a stateless order, so that any step can be resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from layerscope.data.dataset import Split
from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import mixed_seed


class Augment(Protocol):
    """A random change of images."""

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """New images (N, C, H, W) of the same shape, drawn from the seed."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a training run; step ``t`` is the same batch whatever was asked for before.

    Every epoch goes once through all examples in an order of its own, a permutation drawn from a
    generator seeded with ``(seed, epoch)``; the global random state is not touched. The last batch
    of an epoch may be smaller.

    Attributes:
        split: Examples to go through.
        batch_size: Examples per step.
        seed: Decides the order, and what augmentation draws.
        augment: Random change of the images of a step, given them and a seed.

    Raises:
        LayerscopeError: The split is empty or ``batch_size`` is less than 1.
    """

    split: Split
    batch_size: int
    seed: int
    augment: Augment | None = None
    # Epoch -> permutation on the split's device; holds the current epoch only.
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or len(self.split) < 1:
            raise LayerscopeError(
                f"batch_size is {self.batch_size} and the split has {len(self.split)} examples.",
                "Both must be at least 1.",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass, the smaller last one included."""
        return math.ceil(len(self.split) / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The permutation (N,) of epoch ``epoch`` (from 0), on the split's device."""
        order = self._orders.get(epoch)
        if order is None:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            order = torch.randperm(len(self.split), generator=generator).to(self.split.device)
            self._orders.clear()
            self._orders[epoch] = order
        return order

    def indices(self, step: int) -> Tensor:
        """Positions (B,) of the examples of step ``step``, counted from 0 over the whole run.

        Raises:
            LayerscopeError: ``step`` is negative.
        """
        if step < 0:
            raise LayerscopeError(f"step is {step}.", "Steps count from 0.")
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, ...) and targets (B, ...) of step ``step``: see :meth:`Split.batch`."""
        if self.augment is None:
            return self.split.batch(self.indices(step))
        change = partial(self.augment, seed=mixed_seed("augment", self.seed, step))
        return self.split.batch(self.indices(step), change)


@dataclass(frozen=True, eq=False)
class InOrder:
    """A split once through, in its own order: for testing. Iterable as often as needed.

    Attributes:
        split: Examples to go through.
        batch_size: Examples per batch; the last may be smaller.
    """

    split: Split
    batch_size: int = 1000

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        positions = torch.arange(len(self.split), device=self.split.device)
        return (self.split.batch(indices) for indices in positions.split(self.batch_size))
