"""Evaluating many variants of a model together against the plain loop.

The plain loop puts the weights of a variant into the model, evaluates it on all data, and puts the
base's back. Beside each ratio stands what the arithmetic allows: floating-point operations of the
plain loop over those of the shared evaluation, both counted while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.timing import CLOCK, interleaved, seconds
from tests.memory import peak_bytes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from layerscope.config import FCN, VGG, ModelConfig, ResNet
from layerscope.models import build
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.task import Task
from layerscope.networks.variants import evaluate_variants

TASK = Task.classification()
ROUNDS = 3
BUDGET = 2**24
"""Bytes asked for where the peak of allocated tensors is read; timed is the default budget."""
TITLE = (
    f"reset every layer to every checkpoint: plain loop over evaluate_variants ({ROUNDS} rounds)"
)
HEADER = (
    "Model",
    "Variants",
    "plain, s",
    "shared, s",
    "ratio (quartiles)",
    "operations allow",
    "share reached",
    "peak of 16 MiB",
)


@dataclass(frozen=True)
class Case:
    config: ModelConfig
    shape: tuple[int, ...]
    checkpoints: int
    examples: int
    batch_size: int


CASES = {
    "FCN 3x256": Case(FCN(3, 256), (1, 28, 28), 20, 4000, 1000),
    "FCN 3x32": Case(FCN(3, 32), (1, 28, 28), 20, 4000, 100),
    "VGG-16 / 8": Case(VGG(16, width=1 / 8), (3, 32, 32), 10, 400, 100),
    "ResNet-18 / 8": Case(ResNet(18, width=1 / 8), (3, 32, 32), 10, 100, 100),
}


class Workload:
    """A model, a set of variants and data; both ways to evaluate them."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.model = build(case.config, case.shape, 10).eval()
        example = torch.zeros(2, *case.shape)
        layers = LayerMap.from_model(self.model, example, unit=case.config.unit)
        self.state = {n: t.clone() for n, t in unique_state(self.model).items()}
        checkpoints = [self._noise() for _ in range(case.checkpoints)]
        self.n_checkpoints = case.checkpoints
        self.variants: list[Mapping[str, Tensor]] = [
            {name: weights[name] for name in (*layer.parameters, *layer.buffers)}
            for layer in layers
            for weights in checkpoints
        ]
        self.data = [
            (torch.randn(case.batch_size, *case.shape), torch.randint(10, (case.batch_size,)))
            for _ in range(case.examples // case.batch_size)
        ]

    def _noise(self) -> dict[str, Tensor]:
        return {
            name: tensor + 0.01 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in self.state.items()
        }

    @torch.no_grad()
    def plain(self) -> list[float]:
        own = unique_state(self.model)
        errors = []
        for variant in self.variants:
            for name, tensor in variant.items():
                own[name].copy_(tensor)
            right = [self._judged(batch) for batch in self.data]
            errors.append(1 - float(torch.cat(right).double().mean()))
            for name in variant:
                own[name].copy_(self.state[name])
        return errors

    def _judged(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Losses and correctness of every example, as the shared evaluation gives them."""
        outputs = TASK.forward(self.model, batch)
        TASK.losses(outputs, batch)
        return TASK.correct(outputs, batch)  # pyright: ignore

    def shared(self) -> list[float]:
        return self._evaluate(self.variants, self.data)

    def tight(self) -> list[float]:
        return self._evaluate(self.variants, self.data, BUDGET)

    def _evaluate(
        self, variants: Sequence[Mapping[str, Tensor]], data: Sequence[Any], budget: int = 2**30
    ) -> Any:
        found = evaluate_variants(self.model, variants, data, TASK, budget=budget)
        return found.errors.tolist()

    def allowed(self) -> float:
        """Operations of the plain loop over those that the shared evaluation cannot avoid."""
        one_each, batch = self.variants[:: self.n_checkpoints], self.data[:1]
        whole = operations(lambda: self._judged(batch[0]))
        # Tracing counts too, once: what a second batch adds is the evaluation.
        twice, once = (
            operations(lambda d=d: self._evaluate(one_each, d)) for d in (2 * batch, batch)
        )
        shared = whole + self.n_checkpoints * (twice - once - whole)
        return len(self.variants) * whole / shared


@torch.no_grad()
def operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.benchmark(group="variants", timer=CLOCK.read)
@pytest.mark.parametrize("name", CASES)
def test_variants(name, replay, tables):
    workload = Workload(CASES[name])
    np.testing.assert_allclose(workload.shared(), workload.plain(), atol=1e-9)
    peak = peak_bytes(workload.tight)
    allowed = workload.allowed()
    samples = interleaved(
        {"plain": lambda: seconds(workload.plain), "shared": lambda: seconds(workload.shared)},
        ROUNDS,
    )
    replay(samples["shared"])
    ratios = np.asarray(samples["plain"]) / np.asarray(samples["shared"])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    tables.add(
        TITLE,
        HEADER,
        (
            name,
            len(workload.variants),
            f"{np.median(samples['plain']):.2f}",
            f"{np.median(samples['shared']):.2f}",
            f"{median:.2f} ({low:.2f} to {high:.2f})",
            f"{allowed:.2f}",
            f"{median / allowed:.0%}",
            f"{peak / 2**20:.0f} MiB",
        ),
    )
