"""The models of `tests.awkward`, and what is known of them."""

from __future__ import annotations

from typing import Any

from tests.awkward import AWKWARD as CASES
from tests.awkward import DERIVED, convolutions
from tests.zoo.specimen import (
    NO_ACTIVATION,
    NO_ATTACK,
    NO_CLASSES,
    NO_HESSIAN,
    NO_LOGITS,
    anew,
    specimen,
)

_BUILDS = {case.name: case.build for case in CASES}
_TOKENS: dict[str, Any] = {"refused": NO_ATTACK | NO_CLASSES}
_GONE = "no activation function can be measured: 'tanh\\(\\)' did not run"
KNOWN: dict[str, dict[str, Any]] = {
    "plain statistic": {"carried": True},
    "counting": {
        "carried": True,
        "refused_live": {"preactivations": _GONE, "linear_share": _GONE},
    },
    "own generator": {"carried": True},
    "renormalised": _TOKENS,
    "autocast as a method": {"ruled": True, "twin": anew(convolutions)},
    "autocast in a closure": {
        "ruled": True,
        "twin": anew(convolutions),
        "refused": {"linearisation_cost": "copy of Sequential runs modules of the original"},
    },
    "sparse": {"refused": NO_ATTACK | NO_HESSIAN | NO_CLASSES},
    "none beside": {"refused": NO_LOGITS},
    **{
        name: {"refused": NO_ACTIVATION}
        for name in ("straight-through", "branching", "experts", "packed")
    },
    "listed": {
        "ruled": True,
        "refused": {
            "response_frequency": "no layer can be measured: 'a' is not called by the model",
            "generalisation_bound": "no module of Listed has a weight matrix that runs",
        },
    },
    **{name: {"twin": anew(_BUILDS[name]), "factory": False} for name in DERIVED},
}
AWKWARD = tuple(specimen(case, **KNOWN.get(case.name, {})) for case in CASES)
