"""Whether a checkpoint is one of a model, and where in it the model's tensors are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import LAZY
from layerscope.networks.names import named_state
from layerscope.runs.checkpoints import shape_of, type_of
from layerscope.runs.sources.choosing import is_extra
from layerscope.runs.sources.contents import Chosen
from layerscope.runs.sources.state_dicts import StateDict

COMPILED = "_orig_mod."
WRAPPERS = (COMPILED, "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts of names that torch.compile, FSDP and activation checkpointing add, wherever they stand."""
PARALLEL = "module."
"""What (Distributed)DataParallel puts in front of all names."""


@dataclass(frozen=True)
class Fitted:
    """How the names of a checkpoint become those of a run.

    Attributes:
        places: For every name in the run the one in the checkpoint.
        stripped: Prefixes that were left out of names.
        left_out: Tensors that the model says it does not take.
    """

    places: dict[str, str]
    stripped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def fit(state: StateDict, model: nn.Module, what: str) -> dict[str, str]:
    """For every tensor of a model the name that a state dict has for it, see `fitted`."""
    return fitted(state, model, what).places


def fitted(state: StateDict, model: nn.Module, what: str) -> Fitted:
    """Where a model's tensors are in a state dict.

    A tied tensor counts once, under the first name that the model has for it. The state dict may
    have it under any of its names; under several if the values agree. Names may be those of a
    wrapped model: what torch.compile, FSDP and activation checkpointing add is left out wherever it
    stands, and in front of all names ``module.`` of (Distributed)DataParallel, or any other one
    part (``model.`` of a LightningModule) where all names fit without it.

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
    names, stripped = plain_names(state, own, what)
    unwanted = [name for name in names if name not in own and _ignored(model, name)]
    for name, stored in names.items():
        if name in unwanted:
            continue
        if name not in own:
            raise LayerscopeError(
                f"{what} has the unknown tensor {name!r}.", "Build the model that was saved."
            )
        _check_shape(name, state, stored, own[name], what)
        there = found.setdefault(first[name], stored)
        if there != stored and not _equal(state, there, stored):
            raise LayerscopeError(
                f"{there!r} and {stored!r} differ in {what}, and are one tensor in the model.",
                "Build the model without tying them, or save it again.",
            )
    for name in own:
        if first[name] not in found:
            raise LayerscopeError(
                f"{what} lacks {name!r}.",
                "Build the model that was saved; of the prefixes that wrappers add to names, "
                f"{PARALLEL!r} and {', '.join(map(repr, WRAPPERS))} are left out.",
            )
    return Fitted(found, stripped, tuple(unwanted))


def unwrapped(state: StateDict, what: str) -> Fitted:
    """The names of a checkpoint without a model to compare with: without those of wrappers.

    Raises:
        LayerscopeError: Two tensors would have one name.
    """
    return Fitted(*plain_names(state, None, what))


def _ignored(model: nn.Module, name: str) -> bool:
    """Whether a model of Transformers says of a tensor that its checkpoints may have it in vain."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _first_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """For every name of a tensor the first name of it."""
    names: dict[int, str] = {}
    return {name: names.setdefault(id(tensor), name) for name, tensor in own.items()}


def plain_names(
    state: StateDict, own: Mapping[str, Tensor] | None, what: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names without the prefixes of wrappers, each with the name in the state dict; the prefixes.

    Raises:
        LayerscopeError: Two tensors would have one name.
    """
    stripped: dict[str, None] = {}
    names: dict[str, str] = {}
    for stored in (name for name in state if not is_extra(name)):
        name = stored
        for part in WRAPPERS:
            name, count = re.subn(rf"(^|(?<=\.)){re.escape(part)}", "", name)
            stripped |= {part: None} if count else {}
        if name in names:
            raise LayerscopeError(
                f"{names[name]!r} and {stored!r} are both {name!r} in {what}.", "Save it again."
            )
        names[name] = stored
    while (prefix := _common_prefix(names, own)) is not None:
        names = {name.removeprefix(prefix): stored for name, stored in names.items()}
        stripped[prefix] = None
    return names, tuple(stripped)


def _common_prefix(names: Collection[str], own: Mapping[str, Tensor] | None) -> str | None:
    """A part in front of all names that is a wrapper's; None if there is none."""
    prefix = next(iter(names), "").partition(".")[0] + "."
    shorter = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if len(shorter) != len(names) or not shorter or "" in shorter:
        return None
    if own is None:
        return prefix if prefix == PARALLEL else None
    if not own.keys().isdisjoint(names):
        return None
    return prefix if prefix == PARALLEL or shorter <= own.keys() else None


def _check_shape(name: str, state: StateDict, stored: str, own: Tensor, what: str) -> None:
    if isinstance(own, LAZY):  # takes any shape
        return
    if (shape := shape_of(state, stored)) != tuple(own.shape):
        raise LayerscopeError(
            f"{name!r} has shape {shape} in {what}, {tuple(own.shape)} in the model.",
            "Build the model with the sizes it was trained with.",
        )


def _equal(state: StateDict, a: str, b: str) -> bool:
    """Whether two tensors are the same; values are read only where nothing else decides."""
    if isinstance(state, Chosen) and state.is_one(a, b):
        return True
    if type_of(state, a) != type_of(state, b) or shape_of(state, a) != shape_of(state, b):
        return False
    one, other = state[a].flatten(), state[b].flatten()
    if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    if one.element_size() == 1:  # of 8 bits there is no arithmetic
        one, other = one.float(), other.float()
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


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
