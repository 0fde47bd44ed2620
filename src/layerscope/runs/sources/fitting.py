"""Whether a checkpoint is one of a model, and where in it the model's tensors are."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import LAZY
from layerscope.networks.names import named_state
from layerscope.runs.checkpoints import Tensors
from layerscope.runs.sources.state_dicts import StateDict, is_extra, open_state_dict

COMPILED = "_orig_mod."
PARALLEL = "module."
Source = StateDict | str | Path


def by_step(checkpoints: Mapping[Any, Source]) -> dict[int, Source]:
    """Checkpoints with their steps as plain integers.

    Raises:
        LayerscopeError: There is none, or a step is no integer from 0 on.
    """
    found: dict[int, Source] = {}
    for step, source in checkpoints.items():
        try:
            number = -1 if isinstance(step, bool) else operator.index(step)
        except TypeError:
            number = -1
        if number < 0:
            raise LayerscopeError(
                f"the step {step!r} is no integer from 0 on.",
                "Use the number of optimiser steps as key: {0: ...}.",
            )
        found[number] = source
    if not found:
        raise LayerscopeError("there are no checkpoints.", "Pass at least one: {0: state}.")
    return found


def places(step: int, source: Source, model: nn.Module) -> tuple[StateDict, dict[str, str]]:
    """One checkpoint, its tensors not yet read where they are in a file, and what `fit` says.

    Raises:
        LayerscopeError: It is missing or damaged, or does not fit the model.
    """
    state = open_state_dict(source)
    file = "" if isinstance(source, Mapping) else f", {source},"
    return state, fit(state, model, f"the checkpoint of step {step}{file}")


def fit(state: StateDict, model: nn.Module, what: str) -> dict[str, str]:
    """For every tensor of a model the name that a state dict has for it.

    A tied tensor counts once, under the first name that the model has for it. The state dict may
    have it under any of its names; under several if the values agree. Names may be those of a
    wrapped model: ``_orig_mod.`` of ``torch.compile`` is left out wherever it stands, and
    ``module.`` of (Distributed)DataParallel in front of all names.

    Args:
        state: Tensors by name.
        model: The model.
        what: How to call the state dict in messages.

    Raises:
        LayerscopeError: A tensor is missing, unknown, of another shape, or under several names
            with different values.
    """
    own = named_state(model)
    first = _first_names(own)
    found: dict[str, str] = {}
    for name, stored in plain_names(state, own).items():
        if name not in own:
            raise LayerscopeError(
                f"{what} has the unknown tensor {name!r}.", "Build the model that was saved."
            )
        _check_shape(name, state, stored, own[name], what)
        there = found.setdefault(first[name], stored)
        if there != stored and not _equal(state[there], state[stored]):
            raise LayerscopeError(
                f"{there!r} and {stored!r} differ in {what}, and are one tensor in the model.",
                "Build the model without tying them, or save it again.",
            )
    for name in own:
        if first[name] not in found:
            raise LayerscopeError(
                f"{what} lacks {name!r}.",
                "Build the model that was saved; of the prefixes that wrappers add to names, "
                f"{PARALLEL!r} and {COMPILED!r} are left out.",
            )
    return found


def _first_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """For every name of a tensor the first name of it."""
    names: dict[int, str] = {}
    return {name: names.setdefault(id(tensor), name) for name, tensor in own.items()}


def plain_names(state: StateDict, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without the prefixes of wrappers, each with the name in the state dict."""
    names = {name.replace(COMPILED, ""): name for name in state if not is_extra(name)}
    while names and all(n.startswith(PARALLEL) for n in names) and own.keys().isdisjoint(names):
        names = {name.removeprefix(PARALLEL): stored for name, stored in names.items()}
    return names


def _check_shape(name: str, state: StateDict, stored: str, own: Tensor, what: str) -> None:
    if isinstance(own, LAZY):  # takes any shape
        return
    shape = state.shape(stored) if isinstance(state, Tensors) else tuple(state[stored].shape)
    if shape != tuple(own.shape):
        raise LayerscopeError(
            f"{name!r} has shape {shape} in {what}, {tuple(own.shape)} in the model.",
            "Build the model with the sizes it was trained with.",
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def load(model: nn.Module, state: StateDict, what: str) -> None:
    """Put the tensors of a state dict into a model, under whichever of their names.

    Raises:
        LayerscopeError: Names or shapes do not fit the model.
    """
    places, first = fit(state, model, what), _first_names(named_state(model))
    keys = [key for key in model.state_dict() if not is_extra(key)]
    try:
        # Not strictly, since checkpoints hold no extra state; that all tensors are there is known.
        model.load_state_dict(
            {key: state[places[first[key.replace(COMPILED, "")]]] for key in keys}, strict=False
        )
    except (RuntimeError, KeyError) as error:  # what the model's own loading refuses
        raise LayerscopeError(
            f"{what} cannot be loaded: {error}.", "Build the model that was saved."
        ) from error
