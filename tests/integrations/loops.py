"""A small classification, trained by a plain loop and by other people's trainers."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCH = 8
BATCHES = 5


class Examples(Dataset):
    """Inputs with noise that is drawn when they are asked for, from the global random state."""

    def __init__(self, named=False):
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(BATCH * BATCHES, 6, generator=generator)
        self.labels = torch.randint(3, (BATCH * BATCHES,), generator=generator)
        self.named = named

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        inputs = self.inputs[index] + 0.1 * torch.randn(6)
        if self.named:
            return {"inputs": inputs, "labels": self.labels[index]}
        return inputs, self.labels[index]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def loader(**options):
    return DataLoader(Examples(**options), BATCH, shuffle=True)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def assert_equal(a, b):
    """State dicts, bit for bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
