"""What freezing saves of a training step, and what an angle costs beside a ratio of norms."""

from __future__ import annotations

import pytest
import torch

from layerscope.config import ResNet
from layerscope.functional.change import relative_change
from layerscope.functional.norms import owners
from layerscope.models import build

FROZEN = {"nothing": 0, "first half": 10, "all but the classifier": 20}


@pytest.mark.benchmark(group="a step of a narrow ResNet-18, layers frozen from the input on")
@pytest.mark.parametrize("frozen", FROZEN)
def test_step(benchmark, frozen):
    torch.manual_seed(0)
    model = build(ResNet(18, version=1, width=1 / 8), (3, 16, 16), 10)
    weights = [p for p in model.parameters() if p.dim() > 1]
    last = weights[FROZEN[frozen]]
    for parameter in model.parameters():
        if parameter is last:
            break
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    inputs, labels = torch.randn(128, 3, 16, 16), torch.randint(0, 10, (128,))

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    benchmark(step)


@pytest.mark.benchmark(group="change of 20 layers of 100,000 weights")
@pytest.mark.parametrize("reduction", ["ratio", "angle", "median"])
def test_reduction(benchmark, reduction):
    before = [torch.randn(100_000) for _ in range(20)]
    after = [b + 0.01 * torch.randn_like(b) for b in before]
    benchmark(relative_change, before, after, owners([1] * 20), 20, 1.0, reduction)
