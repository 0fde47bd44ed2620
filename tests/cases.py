"""Small models as data: one per way in which a model can be awkward, with batches and a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from layerscope.models.cifar_resnet import cifar_resnet
from layerscope.models.fcn import fcn, residual_fcn
from layerscope.models.resnet import resnet
from layerscope.models.vgg import vgg
from layerscope.models.vit import vit
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task


@dataclass(frozen=True)
class Case:
    """A model, its batches and the names of its layers at ``unit="module"``."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    task: Task
    layers: tuple[str, ...]

    def model(self, seed: int = 0) -> nn.Module:
        """The model, initialised from ``seed``."""
        torch.manual_seed(seed)
        return self.build()

    def map(self, model: nn.Module, **options: Any) -> LayerMap:
        """Its layers, found with batch 0."""
        return LayerMap.from_model(model, self.batch(0), forward=self.task.forward, **options)


def classes(*shape: int, n: int = 8, n_classes: int = 3) -> Callable[[int], Any]:
    """Batches of normal inputs with labels, by seed."""

    def draw(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(n, *shape, generator=generator)
        return inputs, torch.randint(n_classes, (n,), generator=generator)

    return draw


def tokens(seed: int) -> Any:
    """A batch of token ids as language models take it."""
    ids = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids}


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)  # registered first, runs last
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.embed = nn.Linear(5, 8)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


class Tied(nn.Module):
    """A language model whose output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(8, 11, bias=False)
        self.hidden = nn.Linear(8, 8)
        self.embedding = nn.Embedding(11, 8)
        self.output.weight = self.embedding.weight

    def forward(self, input_ids):
        hidden = torch.tanh(self.hidden(self.embedding(input_ids)))
        return SimpleNamespace(logits=self.output(hidden))


class Unused(nn.Module):
    """``spare`` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.spare = nn.Linear(7, 7)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


class Functional(nn.Module):
    """Uses the weights of its parts without running them, and works in place between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        hidden = F.linear(x, self.a.weight, self.a.bias)
        hidden += 1
        return F.linear(F.relu_(hidden), self.b.weight, self.b.bias)


class ClassToken(nn.Module):
    """Parameters and a buffer at the root, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.embed = nn.Linear(5, 6)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.register_buffer("mask", torch.tensor([True, True, False]))

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head(torch.tanh(tokens).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer, which PyTorch's kernels take apart into operators that work in place."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0].mean(1))


class Cell(nn.Module):
    """A recurrent cell called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = x.new_zeros(len(x), 6)
        for time in range(x.shape[1]):
            hidden = self.cell(x[:, time], hidden)
        return self.head(hidden)


class Constants(nn.Module):
    """Tensors that are no part of the state, and an assignment that has no batching rule."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("positions", torch.linspace(-1, 1, 6), persistent=False)
        self.scale = torch.linspace(1, 2, 6)

    def forward(self, x):
        hidden = self.embed(x) * self.scale + self.positions
        hidden[hidden < 0] = 0
        return self.head(hidden.mean(1))


def trained_statistics(model: nn.Module) -> nn.Module:
    """The model with running statistics as training leaves them, not those of initialisation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


CLASSIFY = Task.classification()
FCN = Case(
    "fcn",
    lambda: fcn((4,), 3, depth=2, width=8),
    classes(4),
    CLASSIFY,
    ("layer1", "layer2", "output"),
)
CNN = Case("cnn", cnn, classes(1, 8, 8), CLASSIFY, ("0", "1", "4", "5", "9"))
RESIDUAL = Case(
    "residual",
    lambda: residual_fcn((4,), 3, blocks=2, width=6),
    classes(4),
    CLASSIFY,
    (
        "input",
        "blocks.0.linear1",
        "blocks.0.linear2",
        "blocks.1.linear1",
        "blocks.1.linear2",
        "output",
    ),
)
_PARTS = ("self_attn", "self_attn.out_proj", "norm1", "linear1", "linear2", "norm2")
TRANSFORMER = Case(
    "transformer",
    Transformer,
    classes(6, 5),
    CLASSIFY,
    ("embed", *(f"encoder.layers.{i}.{part}" for i in (0, 1) for part in _PARTS), "head"),
)
TIED = Case("tied", Tied, tokens, Task.language_model(), ("embedding", "hidden"))
UNUSED = Case("unused", Unused, classes(4), CLASSIFY, ("first", "spare", "last"))
FUNCTIONAL = Case("functional", Functional, classes(4), CLASSIFY, ("a", "b"))
CLASS_TOKEN = Case(
    "class token", ClassToken, classes(7, 5), CLASSIFY, ("ClassToken", "embed", "head")
)
CASES = (FCN, CNN, RESIDUAL, TRANSFORMER, TIED, UNUSED, FUNCTIONAL, CLASS_TOKEN)

DEEP = (
    Case("vgg", lambda: vgg((3, 32, 32), 3, 11, width=1 / 16), classes(3, 32, 32), CLASSIFY, ()),
    *(
        Case(
            f"resnet v{version}",
            lambda version=version: trained_statistics(
                resnet((3, 8, 8), 3, 18, version=version, width=1 / 16)
            ),
            classes(3, 8, 8),
            CLASSIFY,
            (),
        )
        for version in (1, 2)
    ),
    *(
        Case(
            f"{kind} for small images",
            lambda kind=kind, settings=settings: trained_statistics(
                cifar_resnet((3, 8, 8), 3, 8, kind, width=0.25, **settings)
            ),
            classes(3, 8, 8),
            CLASSIFY,
            (),
        )
        for kind, settings in (
            ("resnet", {"last_norm": "linear", "divisor": 3.0}),
            ("preresnet", {"normalisation": "instance"}),
        )
    ),
    Case(
        "bottlenecks without normalisation",
        lambda: resnet(
            (3, 8, 8),
            3,
            50,
            batch_norm=False,
            width=1 / 16,
            stages=(2, 2),
            downsampling="layer",
            initialisation="glorot",
        ),
        classes(3, 8, 8),
        CLASSIFY,
        (),
    ),
    Case(
        "vit",
        lambda: vit((3, 8, 8), 3, width=8, heads=2, expansions=(2, 3), dropout=0.1),
        classes(3, 8, 8),
        CLASSIFY,
        (),
    ),
)
"""Deep networks, for what has to be exact on all of them; their layers are not listed."""

OPERATORS = (
    *(
        Case(kind.__name__, lambda kind=kind: Recurrent(kind), classes(7, 5), CLASSIFY, ())
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
    ),
    Case("GRUCell", Cell, classes(7, 5), CLASSIFY, ()),
    Case("constants", Constants, classes(7, 5), CLASSIFY, ()),
)
"""Operators that are hard to trace or to evaluate for several variants at once."""
