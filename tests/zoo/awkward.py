"""The models of `tests.awkward`, and what is known of them."""

from __future__ import annotations

from typing import Any

from tests.awkward import AWKWARD as CASES
from tests.awkward import DERIVED, convolutions
from tests.zoo.specimen import NO_ATTACK, NO_HESSIAN, anew, specimen

_BUILDS = {case.name: case.build for case in CASES}
_TOKENS: dict[str, Any] = {"refused": NO_ATTACK}
KNOWN: dict[str, dict[str, Any]] = {
    "plain statistic": {"carried": True},
    "counting": {"carried": True},
    "own generator": {"carried": True},
    "renormalised": _TOKENS,
    "autocast as a method": {"twin": anew(convolutions)},
    "autocast in a closure": {"twin": anew(convolutions)},
    "sparse": {"refused": NO_ATTACK | NO_HESSIAN},
    "listed": {
        "refused": {
            "response_frequency": "no layer can be measured: 'a' is not called by the model",
            "generalisation_bound": "no module of Listed has a weight matrix that runs",
        }
    },
    **{name: {"twin": anew(_BUILDS[name]), "factory": False} for name in DERIVED},
}
AWKWARD = tuple(specimen(case, **KNOWN.get(case.name, {})) for case in CASES)
