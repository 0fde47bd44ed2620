"""Which operators run depends on values, lengths or masks."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, OPERATORS, classes
from tests.zoo.specimen import Specimen
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from layerscope.task import Task


class Branching(nn.Module):
    """Takes one of two ways, by the mean of its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.wide = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.tanh(self.embed(x))
        if float(hidden.detach().mean()) > 0:
            hidden = torch.relu(self.wide(hidden))
        return self.head(hidden)


class Experts(nn.Module):
    """A mixture of experts, each run on the examples that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.tanh(self.embed(x))
        share, choice = self.router(hidden).softmax(1).max(1)
        mixed = torch.zeros_like(hidden)
        for index, expert in enumerate(self.experts):
            (chosen,) = torch.where(choice == index)
            if len(chosen):
                mixed = mixed.index_add(0, chosen, expert(hidden[chosen]) * share[chosen, None])
        return self.head(mixed)


class Packed(nn.Module):
    """Sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.head(hidden.mean(1))


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
_lstm = next(case for case in OPERATORS if case.name == "LSTM")

FLOW = (
    Specimen("control flow", Branching, classes(4), CLASSIFY),
    Specimen("experts", Experts, classes(4), CLASSIFY),
    Specimen("packed sequences", Packed, _sequences, BY_LENGTH),
    Specimen("padding mask", Masked, _sequences, BY_LENGTH),
    Specimen("LSTM", _lstm.build, _lstm.batch, _lstm.task),
)
