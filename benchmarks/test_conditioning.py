"""Second moments of every layer and their spectra, in gradients of the same batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.timing import CLOCK, interleaved, seconds
from torch import Tensor, nn

from layerscope.config import FCN, ModelConfig, ResNet
from layerscope.functional.conditioning import condition, kronecker_condition
from layerscope.models import build
from layerscope.networks.factors import Factors, collect
from layerscope.networks.task import Task

TITLE = "Conditioning of all layers, in gradients of the same batch"
HEADER = ("Model", "examples", "matrices", "gradient ms", "factors", "and spectra")


class Words(nn.Module):
    """A small GPT: token and position embeddings, causal blocks, a tied head."""

    def __init__(self, vocabulary: int = 512, width: int = 64, positions: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True)
            for _ in range(4)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        return (self.norm(x) @ self.tokens.weight.T).transpose(1, 2)


def images(model: ModelConfig, shape: tuple[int, ...], n: int) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return build(model, shape, 10), (torch.randn(n, *shape), torch.randint(10, (n,)))


def words() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    ids = torch.randint(512, (16, 65))
    return Words(), (ids[:, :-1], ids[:, 1:])


WORK = {
    "MLP 8x24": partial(images, FCN(7, 24), (24,), 512),
    "FCN 3x256": partial(images, FCN(3, 256), (784,), 512),
    "ResNet-18 / 8": partial(images, ResNet(18, width=1 / 8), (3, 32, 32), 128),
    "ResNet-18": partial(images, ResNet(18), (3, 32, 32), 32),
    "small GPT": words,
}


def spectra(found: dict[Any, Factors]) -> list[float]:
    """What `Conditioning` makes of the factors, less the probe around it."""
    largest = []
    for one in found.values():
        left = one.input.eigenvalues()
        if one.gradient is None:
            largest.append(condition(left).largest)
            continue
        right = one.gradient.eigenvalues()
        largest += [condition(left).largest, condition(right).largest]
        largest.append(kronecker_condition(left, right).largest)
    return largest


@pytest.mark.benchmark(group="conditioning", timer=CLOCK.read)
@pytest.mark.parametrize("name", WORK)
def test_conditioning(name, replay, tables):
    model, batch = WORK[name]()
    task = Task.classification()
    parameters = list(model.parameters())

    def gradient() -> None:
        torch.autograd.grad(task.loss(task.forward(model, batch), batch), parameters)

    def factors() -> dict[Any, Factors]:
        return collect(model, [batch], task, training=True)

    found = factors()
    assert all(np.isfinite(spectra(found)))
    ways = {"gradient": gradient, "factors": factors, "all": lambda: spectra(factors())}
    samples = interleaved({k: partial(seconds, way) for k, way in ways.items()}, 7)
    replay(samples["all"])
    times = {k: np.asarray(values) for k, values in samples.items()}
    multiples = [np.median(times[k] / times["gradient"]) for k in ("factors", "all")]
    row = (name, len(batch[0]), len(found), f"{1e3 * np.median(times['gradient']):.1f}")
    tables.add(TITLE, HEADER, (*row, *(f"{one:.1f}" for one in multiples)))
