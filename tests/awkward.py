"""Models that write to themselves, hide from names, or cannot be traced, as cases.

Every one trains and is evaluated like any other; what measuring it leaves, and the numbers, are
compared with plain passes over copies.
"""

from __future__ import annotations

import warnings
from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F  # noqa: N812
from tests.cases import CLASSIFY, Case, classes, tokens
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.checkpoint import checkpoint

from layerscope.networks.task import Task


class TwoNames(nn.Module):
    """One module registered twice, called under both names, among others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.s = nn.Linear(8, 8)
        self.again = self.s
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.again(torch.tanh(self.s(self.first(x))))))


class PlainStatistic(nn.Module):
    """A running mean in a plain attribute, assigned anew at every call, and a list of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.mean = torch.zeros(8)
        self.seen = []
        self.kept = {"last": torch.zeros(8)}

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        self.kept["last"].copy_(self.mean)
        self.seen.append(len(x))
        return self.last(hidden - self.mean)


class Counting(nn.Module):
    """What it does depends on how often it was called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.state = SimpleNamespace(calls=0)

    def forward(self, x):
        self.state.calls += 1
        hidden = self.first(x)
        return self.last(torch.tanh(hidden) if self.state.calls % 2 else torch.relu(hidden))


class OwnGenerator(nn.Module):
    """Noise from a generator of its own, in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(hidden + 0.1 * torch.randn(hidden.shape, generator=self.generator))


class Renormalised(nn.Module):
    """An embedding that shortens its own rows, and a layer that normalises its weight in place."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8, max_norm=0.5)
        self.hidden = nn.Linear(8, 8)
        self.output = nn.Linear(8, 11)

    def forward(self, input_ids):
        self.output.weight.data /= self.output.weight.data.norm(dim=1, keepdim=True)
        hidden = torch.tanh(self.hidden(self.embedding(input_ids)))
        return SimpleNamespace(logits=self.output(hidden))


class Checkpointed(nn.Module):
    """Parts whose activations are computed again in the backward pass."""

    def __init__(self, reentrant: bool):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.hidden = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.last = nn.Linear(8, 3)
        self.reentrant = reentrant

    def forward(self, x):
        hidden = checkpoint(self.hidden, torch.tanh(self.first(x)), use_reentrant=self.reentrant)
        return self.last(torch.tanh(hidden))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def autocast_method():
    """``forward`` wrapped as a method, as Accelerate does."""
    model = convolutions()
    wrapped = torch.autocast("cpu", torch.bfloat16)(model.forward.__func__)
    model.forward = MethodType(wrapped, model)
    return model


def autocast_closure():
    """``forward`` wrapped in a function that encloses the bound method."""
    model = convolutions()
    forward = model.forward

    def wrapped(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*inputs).float()

    model.forward = wrapped
    return model


class Listed(nn.Module):
    """Uses its parameters through a plain list."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)
        self.matrices = [self.a.weight, self.b.weight]

    def forward(self, x):
        return F.linear(torch.tanh(F.linear(x, self.matrices[0])), self.matrices[1], self.b.bias)


class Sign(torch.autograd.Function):
    """The sign, with the derivative of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, slope):
        return slope


class StraightThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(Sign.apply(self.first(x)))


class PartlyStopped(nn.Module):
    """A part through which no gradient flows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        with torch.no_grad():
            stopped = torch.tanh(self.second(hidden))
        return self.last(hidden * (1 + stopped))


class Branching(nn.Module):
    """Control flow on values of tensors."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.first(x)
        return self.last(torch.tanh(hidden) if hidden.mean() > 0 else torch.sin(hidden))


class Experts(nn.Module):
    """Each example goes to the expert that scores it highest."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(3)])

    def forward(self, x):
        score, chosen = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            out[rows] = expert(x[rows]) * score[rows, None]
        return out


class Packed(nn.Module):
    """A recurrent layer over packed sequences."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        lengths = torch.arange(len(x)) % x.shape[1] + 1
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.head(self.recurrent(packed)[1][-1])


class NoneBeside(nn.Module):
    """Outputs with a leaf that is None."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return {"logits": self.last(torch.tanh(self.first(x))), "cache": None, "kind": "plain"}


def _logits(model, batch):
    return model(batch[0])


NAMED = Task(
    _logits,
    lambda outputs, batch: F.cross_entropy(outputs["logits"], batch[1]),
    lambda outputs, batch: F.cross_entropy(outputs["logits"], batch[1], reduction="none"),
    lambda outputs, batch: outputs["logits"].argmax(1) == batch[1],
    "logits by name",
)


class Sparse(nn.Module):
    """Sparse gradients, of an embedding and a bag of them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8, sparse=True)
        self.bag = nn.EmbeddingBag(11, 8, sparse=True, mode="sum")
        self.output = nn.Linear(8, 11)

    def forward(self, input_ids):
        hidden = self.embedding(input_ids) + self.bag(input_ids)[:, None]
        return SimpleNamespace(logits=self.output(torch.tanh(hidden)))


class Kinds(nn.Module):
    """A complex parameter, a frozen one of integers, an empty one, and two inputs to one layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.wave = nn.Module()
        self.wave.filter = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.table = nn.Module()
        codes = torch.randint(-3, 4, (6,), dtype=torch.int8)
        self.table.codes = nn.Parameter(codes, requires_grad=False)
        self.empty = nn.Module()
        self.empty.nothing = nn.Parameter(torch.zeros(0, 3))
        self.last = nn.Bilinear(6, 6, 3)

    def forward(self, x):
        hidden = self.first(x)
        spectrum = torch.fft.rfft(hidden) * self.wave.filter
        mixed = torch.fft.irfft(spectrum, n=6) + self.table.codes.float()
        return self.last(torch.tanh(hidden), torch.tanh(mixed))


def derived(wrap):
    """A network whose middle layer's weight is made of other tensors."""

    def build():
        model = nn.Sequential(
            nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
        )
        wrap(model[2])
        return model

    return build


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        WeightNorm.apply(module, "weight", 0)


DERIVED = {
    "old weight_norm": old_weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


def case(name, build, batch=None, task=CLASSIFY):
    return Case(name, build, batch or classes(4), task, ())


LANGUAGE = Task.language_model()
AWKWARD = (
    case("two names", TwoNames),
    case("plain statistic", PlainStatistic),
    case("counting", Counting),
    case("own generator", OwnGenerator),
    case("renormalised", Renormalised, tokens, LANGUAGE),
    case("checkpointed", lambda: Checkpointed(False)),
    case("checkpointed, re-entrant", lambda: Checkpointed(True)),
    case("autocast as a method", autocast_method, classes(1, 8, 8)),
    case("autocast in a closure", autocast_closure, classes(1, 8, 8)),
    case("listed", Listed),
    case("straight-through", StraightThrough),
    case("partly stopped", PartlyStopped),
    case("branching", Branching),
    case("experts", Experts),
    case("packed", Packed, classes(7, 5)),
    case("none beside", NoneBeside, task=NAMED),
    case("sparse", Sparse, tokens, LANGUAGE),
    case("kinds", Kinds),
    *(case(name, derived(wrap)) for name, wrap in DERIVED.items()),
)
