"""Models whose matrices are measured, with a batch of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from layerscope.config import FCN, ModelConfig, ResNet
from layerscope.models import build

Batch = tuple[Tensor, Tensor]


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
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1]).to(x)
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        return (self.norm(x) @ self.tokens.weight.T).transpose(1, 2)


def images(model: ModelConfig, shape: tuple[int, ...], n: int) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    return build(model, shape, 10), (torch.randn(n, *shape), torch.randint(10, (n,)))


def words() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    ids = torch.randint(512, (16, 65))
    return Words(), (ids[:, :-1], ids[:, 1:])


WORK: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {
    "MLP 8x24": partial(images, FCN(7, 24), (24,), 512),
    "FCN 3x256": partial(images, FCN(3, 256), (784,), 512),
    "ResNet-18 / 8": partial(images, ResNet(18, width=1 / 8), (3, 32, 32), 128),
    "ResNet-18": partial(images, ResNet(18), (3, 32, 32), 32),
    "small GPT": words,
}
