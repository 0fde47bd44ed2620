"""Steps counted by the optimiser itself, so that a loop need not say when one was taken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from layerscope.errors import LayerscopeError
from layerscope.networks.names import named_state

Optimizers = Optimizer | Mapping[str, Optimizer]
ONLY = "optimizer"
"""Name of an optimiser that is given without one."""


class Clock:
    """Counts the steps of optimisers, by hooks of theirs, and calls before and after each.

    A step that a ``GradScaler`` skips does not count (also where a fused optimiser skips it
    itself), one with a closure counts once however often it is evaluated, and one whose class
    calls ``super().step()`` counts once. Under ``torch.compile`` the hooks run outside the graph.

    Args:
        optimizers: One optimiser, or several by name in the order in which they step: a step of
            the training is one of the last. Wrappers of Accelerate, Lightning and Fabric are
            looked through.
        model: The module that trains.
        before: Called before each step of any of them.
        after: Called after each step of the last.

    Attributes:
        steps: Steps taken so far, by name.

    Raises:
        LayerscopeError: Several have no names, one is no optimiser, or it steps no parameter of
            the model.
    """

    def __init__(
        self,
        optimizers: Optimizers,
        model: nn.Module,
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        self._optimizers = by_name(optimizers)
        _check_parameters(self._optimizers, model)
        self.steps = dict.fromkeys(self._optimizers, 0)
        self._last = list(self._optimizers)[-1]
        self._after = after
        self._hooks = [
            hook
            for name, optimizer in self._optimizers.items()
            for hook in (
                optimizer.register_step_pre_hook(_uncompiled(lambda *_: before())),
                optimizer.register_step_post_hook(self._on_end(name)),
            )
        ]

    def count_from(self, step: int, steps: Mapping[str, int] | None = None) -> None:
        """Go on from where a training was left.

        Args:
            step: Steps of the training, which are those of the last optimiser.
            steps: Those of every optimiser, by name, where known; the others count from 0.
        """
        self.steps |= {name: n for name, n in (steps or {}).items() if name in self.steps}
        self.steps[self._last] = step

    def describe(self) -> dict[str, dict[str, Any]]:
        """Class, number of parameters and steps of every optimiser, for the manifest."""
        return {
            name: {
                "class": type(optimizer).__name__,
                "n_parameters": sum(p.numel() for p in _parameters(optimizer)),
                "steps": self.steps[name],
            }
            for name, optimizer in self._optimizers.items()
        }

    def stop(self) -> None:
        """Count no more and leave the optimisers as found."""
        for hook in self._hooks:
            hook.remove()

    def _on_end(self, name: str) -> Callable[..., None]:
        def count(optimizer: Optimizer, *_: Any) -> None:
            if _skipped(optimizer) or _inside_another(optimizer):
                return
            self.steps[name] += 1
            if name == self._last:
                self._after()

        return _uncompiled(count)


def _uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, left out of the graphs that ``torch.compile`` makes."""
    return torch.compiler.disable(hook)  # pyright: ignore[reportReturnType]


def by_name(optimizers: Any) -> dict[str, Optimizer]:
    """The optimisers themselves, outside wrappers, by name.

    Raises:
        LayerscopeError: Several have no names, one is given twice or is no optimiser, or there is
            none.
    """
    if isinstance(optimizers, list | tuple):
        if len(optimizers) != 1:
            raise LayerscopeError(
                f"{len(optimizers)} optimisers are given without names.",
                'Name them, in the order in which they step: optimizer={"critic": ..., '
                '"generator": ...}; the steps of the last count.',
            )
        optimizers = optimizers[0]
    given = dict(optimizers) if isinstance(optimizers, Mapping) else {ONLY: optimizers}
    found = {str(name): _unwrapped(optimizer) for name, optimizer in given.items()}
    if len({id(optimizer) for optimizer in found.values()}) != len(given) or not given:
        raise LayerscopeError(
            "there is no optimiser." if not given else "an optimiser is given under two names.",
            "Give each optimiser of the training once.",
        )
    return found


def _unwrapped(optimizer: Any) -> Optimizer:
    """The optimiser whose step is taken: that of torch inside what Accelerate or Lightning made."""
    found = optimizer
    while not _has_hooks(found) and "_optimizer" in getattr(found, "__dict__", {}):
        found = found._optimizer
    while not _has_hooks(found) and "optimizer" in getattr(found, "__dict__", {}):
        found = found.optimizer
    if not _has_hooks(found):
        raise LayerscopeError(
            f"{type(optimizer).__name__} is no torch.optim.Optimizer that takes hooks.",
            "Pass the optimiser whose step() is called, or leave it out and call recorder.step() "
            "after each of its steps.",
        )
    return found


def _has_hooks(optimizer: Any) -> bool:
    """Whether its own ``__init__`` was that of `torch.optim.Optimizer`, which wraps ``step``."""
    return isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in vars(optimizer)


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _check_parameters(optimizers: Mapping[str, Optimizer], model: nn.Module) -> None:
    own = {id(tensor) for tensor in named_state(model).values()}
    for name, optimizer in optimizers.items():
        if own.isdisjoint(id(p) for p in _parameters(optimizer)):
            which = "the optimiser" if name == ONLY else f"the optimiser {name!r}"
            raise LayerscopeError(
                f"{which} steps no parameter of {type(model).__name__}.",
                "Pass the optimiser that was made of this model's parameters; make it after "
                "wrapping or sharding, which exchanges them.",
            )


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser was told by its ``GradScaler`` that gradients are not finite."""
    found = getattr(optimizer, "found_inf", None)  # there only while the scaler steps
    return found is not None and bool(found)


def _inside_another(optimizer: Optimizer) -> bool:
    """Whether this step was taken by another of the same optimiser: ``super().step()``."""
    code = getattr(type(optimizer).step, "__code__", None)
    frame, count = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is optimizer:
            count += 1
        frame = frame.f_back
    return count > 1
