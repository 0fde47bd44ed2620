"""A training loop of one's own, with or without a recorder around it, and what it leaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tests.cases import Case
from tests.zoo.inventory import same
from torch import Tensor, nn

from layerscope.probes import (
    PROBES,
    GradientMagnitude,
    GradientPredictiveness,
    MomentProbe,
    WeightChange,
)
from layerscope.recording.recorder import Recorder

VARIED = (
    WeightChange(),
    WeightChange(p=2.0, minimum_dimensions=1),
    WeightChange(reduction="elementwise"),
    WeightChange(reduction="median"),
    WeightChange(size_matched=True),
    GradientMagnitude(),
    GradientMagnitude(mode="train"),
    GradientPredictiveness(batches=2, learning_rate=0.1),
)
"""Probes with settings that matter here."""
MOMENT_PROBES: tuple[MomentProbe, ...] = (
    *(
        probe()
        for probe in PROBES.values()
        if issubclass(probe, MomentProbe) and probe not in map(type, VARIED)
    ),
    *VARIED,
)
"""Every probe that works live."""


@dataclass(frozen=True)
class Way:
    """How a loop trains."""

    compiled: bool = False
    accumulate: int = 1
    autocast: bool = False


WAYS = {
    "plain": Way(),
    "compiled": Way(compiled=True),
    "accumulated": Way(accumulate=2),
    "autocast": Way(autocast=True),
}


@dataclass
class Outcome:
    """Everything that a recorder must leave as it is."""

    state: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    losses: list[float]
    random: dict[str, Any]
    modes: list[bool]
    hooks: int


def hooks(model: nn.Module) -> int:
    """Number of hooks of any kind on any module or parameter."""
    kinds = [name for name in vars(model) if "hooks" in name and "with" not in name]
    kinds = [name for name in kinds if isinstance(getattr(model, name), dict)]
    assert "_forward_hooks" in kinds
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds) + sum(
        len(p._backward_hooks or ()) for p in model.parameters()
    )


def random_state() -> dict[str, Any]:
    kind, words, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": (kind, words.tolist(), *rest),
    }


def train(
    case: Case,
    steps: int = 6,
    way: Way = WAYS["plain"],
    *,
    model: nn.Module | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    **recorder: Any,
) -> Outcome:
    """Train with momentum; ``recorder`` holds a recorder's arguments, or nothing for none.

    ``wrap`` gives what the loop calls, and what the recorder is given, instead of the model.
    """
    random.seed(1)
    np.random.seed(1)
    model = case.model() if model is None else model
    model.train()
    running = torch.compile(model, backend="aot_eager") if way.compiled else model
    running = wrap(running) if wrap is not None else running
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    with Recorder(running, **recorder) if recorder else nullcontext() as record:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(way.accumulate):
                batch = case.batch(100 + step * way.accumulate + part)
                with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
                    loss = case.task.loss(case.task.forward(running, batch), batch)
                (loss / way.accumulate).backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if record is not None:
                record.step(loss=loss)
    return Outcome(
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: p.grad for name, p in model.named_parameters()},
        losses,
        random_state(),
        [module.training for module in model.modules()],
        hooks(model),
    )


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Bit for bit."""
    assert found.losses == expected.losses
    for name, value in expected.state.items():
        assert same(found.state[name], value), name
    for name, value in expected.gradients.items():
        other = found.gradients[name]
        assert (value is None and other is None) or same(other, value), name
    assert [n for n, state in found.random.items() if state != expected.random[n]] == []
    assert (found.modes, found.hooks) == (expected.modes, expected.hooks)
