"""Models inside wrappers, or with compiled parts."""

from __future__ import annotations

import warnings

import torch
from tests.cases import CLASSIFY, classes, cnn
from tests.zoo.specimen import Specimen, anew
from torch import nn


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _compiled_part() -> nn.Module:
    model = cnn()
    model[0] = torch.compile(model[0], backend="aot_eager")
    return model


def _compiled_in_place() -> nn.Module:
    model = _mlp()
    model.compile(backend="aot_eager")
    return model


def _script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(_mlp())


WRAPPERS = (
    Specimen(
        "torch.compile",
        _mlp,
        classes(4),
        CLASSIFY,
        wrap=lambda model: torch.compile(model, backend="aot_eager"),  # pyright: ignore
    ),
    Specimen(
        "compiled part", _compiled_part, classes(1, 8, 8), CLASSIFY, twin=anew(cnn), ruled=True
    ),
    Specimen("compile()", _compiled_in_place, classes(4), CLASSIFY, twin=anew(_mlp)),
    Specimen("DataParallel", cnn, classes(1, 8, 8), CLASSIFY, wrap=nn.DataParallel, ruled=True),
    Specimen("TorchScript", _script, classes(4), CLASSIFY, unrecordable="(?i)script"),
)
