"""Models that keep something beside parameters and buffers, or change their own weights."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, classes, tokens
from tests.zoo.specimen import Specimen
from torch import nn

from layerscope.task import Task


class Twice(nn.Module):
    """One module under two names, both called."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Linear(4, 4)
        self.again = self.s
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.again(torch.tanh(self.s(x)))))


class Statistic(nn.Module):
    """A running mean in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.mean = torch.zeros(6)

    def forward(self, x):
        hidden = self.embed(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.head(torch.tanh(hidden - self.mean))


class StatisticWithHistory(Statistic):
    """The same, in both modes, together with the graph of the last step."""

    def forward(self, x):
        hidden = self.embed(x)
        self.mean = 0.9 * self.mean.detach() + 0.1 * hidden.mean(0)
        return self.head(torch.tanh(hidden - self.mean))


class Counter(nn.Module):
    """How often it was called decides what it computes: a warm-up of the output's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        hidden = torch.tanh(self.embed(x))
        return self.head(hidden if self.calls % 3 else hidden * min(1.0, self.calls / 10))


class OwnGenerator(nn.Module):
    """Noise from a generator of its own, in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        hidden = self.embed(x)
        noise = torch.randn(hidden.shape[1:], generator=self.generator)
        return self.head(torch.tanh(hidden + 0.1 * noise))


class MaxNorm(nn.Module):
    """An embedding that renormalises its weights in place when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, max_norm=0.5)
        self.head = nn.Linear(8, 11)

    def forward(self, input_ids):
        return Logits(self.head(torch.tanh(self.embedding(input_ids))))


class Logits:
    """Outputs as an object of one's own."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Renormalising(nn.Module):
    """Weights are normalised in place, past autograd, at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        self.embed.weight.data /= self.embed.weight.data.norm(dim=1, keepdim=True)
        return self.head(torch.tanh(self.embed(x)))


class PlainList(nn.Module):
    """Its parameters are used from a plain list; one tensor is in the list only."""

    def __init__(self) -> None:
        super().__init__()
        self.registered = nn.ParameterList([nn.Parameter(0.3 * torch.randn(4, 6))])
        self.head = nn.Linear(6, 3)
        self.plain = [*self.registered, nn.Parameter(0.3 * torch.randn(6, 6))]

    def forward(self, x):
        for weight in self.plain:
            x = torch.tanh(x @ weight)
        return self.head(x)


class Remembering(nn.Module):
    """Keeps its last activations in a list, by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.seen: list[torch.Tensor] = []
        self.embed.register_forward_hook(self.remember)

    def remember(self, _, __, output):
        self.seen.append(output.detach())

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


def _with_mean(model: nn.Module) -> nn.Module:
    twin = StatisticWithHistory()
    twin.mean = model.mean.detach().clone()  # pyright: ignore
    return twin


ATTRIBUTES = (
    Specimen("twice", Twice, classes(4), CLASSIFY),
    Specimen("statistic", Statistic, classes(4), CLASSIFY, carried=True),
    Specimen(
        "statistic with history",
        StatisticWithHistory,
        classes(4),
        CLASSIFY,
        twin=_with_mean,
        carried=True,
    ),
    Specimen("counter", Counter, classes(4), CLASSIFY, carried=True),
    Specimen("own generator", OwnGenerator, classes(4), CLASSIFY, carried=True),
    Specimen("max_norm", MaxNorm, tokens, Task.language_model()),
    Specimen("renormalising", Renormalising, classes(4), CLASSIFY),
    Specimen("plain list", PlainList, classes(4), CLASSIFY),
    Specimen("remembering", Remembering, classes(4), CLASSIFY),
)
