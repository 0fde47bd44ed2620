"""Tensors and operators of unusual kinds and shapes."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, classes, cnn
from tests.zoo.specimen import NO_ACTIVATION, NO_ATTACK, NO_HESSIAN, NO_LOGITS, Specimen
from torch import nn

from layerscope.networks.task import Task


class ZeroSize(nn.Module):
    """A parameter without entries, and a layer that has no other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.prompt = nn.Embedding(0, 6)
        self.empty = nn.Parameter(torch.zeros(0, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        extra = torch.cat([self.empty, self.prompt.weight]).sum(0)
        return self.head(torch.tanh(self.embed(x) + extra))


class Bag(nn.Module):
    """A bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.bag(ids))


class Pair(nn.Module):
    """A layer with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(4, 6)
        self.both = nn.Bilinear(5, 6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.both(self.left(x), self.right(x))))


class Wrapped(nn.Module):
    """Its outputs stand in a container together with something else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.auxiliary = nn.Linear(6, 2)
        self.kind = kind

    def forward(self, x):
        hidden = torch.tanh(self.embed(x))
        logits = self.head(hidden)
        return {
            "dict": {"logits": logits, "hidden": hidden, "cache": None},
            "two": (logits, self.auxiliary(hidden)),
        }[self.kind]


def _ids(seed: int):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (8, 5), generator=generator)
    return ids, torch.randint(3, (8,), generator=generator)


def _channels_last(seed: int):
    inputs, labels = classes(3, 8, 8)(seed)
    return inputs.contiguous(memory_format=torch.channels_last), labels


def _picking(key: int | str) -> Task:
    return Task(
        lambda model, batch: model(batch[0])[key],
        CLASSIFY.loss,
        CLASSIFY.losses,
        CLASSIFY.correct,
        f"classification by output {key}",
    )


def _both(seed_free: nn.Module, batch) -> tuple[torch.Tensor, torch.Tensor]:
    return seed_free(batch[0])


TWO = Task(
    _both,
    lambda outputs, batch: CLASSIFY.loss(outputs[0], batch) + 0.1 * outputs[1].square().mean(),
    lambda outputs, batch: CLASSIFY.losses(outputs[0], batch),
    lambda outputs, batch: outputs[0].argmax(1) == batch[1],
    "two outputs",
)


def _rgb() -> nn.Module:
    model = cnn()
    model[0] = nn.Conv2d(3, 4, 3)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore


TENSORS = (
    Specimen("zero size", ZeroSize, classes(4), CLASSIFY),
    Specimen("EmbeddingBag", Bag, _ids, CLASSIFY, refused=NO_ATTACK | NO_HESSIAN | NO_ACTIVATION),
    Specimen("Bilinear", Pair, classes(4), CLASSIFY),
    Specimen("dict outputs", lambda: Wrapped("dict"), classes(4), _picking("logits")),
    Specimen("two outputs", lambda: Wrapped("two"), classes(4), TWO, refused=NO_LOGITS),
    Specimen("channels last", _rgb, _channels_last, CLASSIFY, ruled=True),
)
