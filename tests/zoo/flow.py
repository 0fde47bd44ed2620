"""Sequences, by lengths and in loops."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, OPERATORS, classes
from tests.zoo.specimen import NO_ACTIVATION, NO_ATTACK, Specimen, specimen
from torch import nn

from layerscope.networks.task import Task


class Masked(nn.Module):
    """Padding is left out of attention and of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x, lengths):
        padding = torch.arange(x.shape[1]) >= lengths[:, None]
        hidden = self.layer(self.embed(x), src_key_padding_mask=padding)
        return self.head(hidden.masked_fill(padding[..., None], 0).sum(1) / lengths[:, None])


def _sequences(seed: int):
    inputs, labels = classes(7, 5)(seed)
    lengths = torch.randint(2, 8, (8,), generator=torch.Generator().manual_seed(seed))
    return inputs, labels, lengths


BY_LENGTH = Task(
    lambda model, batch: model(batch[0], batch[2]),
    CLASSIFY.loss,
    CLASSIFY.losses,
    CLASSIFY.correct,
    "sequences",
)

FLOW = (
    Specimen("padding mask", Masked, _sequences, BY_LENGTH, refused=NO_ATTACK),
    *(specimen(case, refused=NO_ACTIVATION) for case in OPERATORS if case.name == "LSTM"),
)
