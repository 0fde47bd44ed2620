"""What a recorder that goes on needs beyond the checkpoints: previous weights, unfinished means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.recording.numbers import Scalars
from layerscope.recording.watching import LiveObserver


def no_resuming() -> LayerscopeError:
    """The error where processes that share weights are to keep, or go on from, such a state."""
    return LayerscopeError(
        "a recorder of sharded parameters keeps no state to resume from.",
        "Record a new run from here on, in another folder, and compare it with the first: what "
        "is measured counts from where it starts.",
    )


def no_place(path: Path) -> LayerscopeError:
    """The error where a run is to be resumed, and nothing says where in it."""
    return LayerscopeError(
        f"{path} is to be resumed, and nothing says at which step.",
        "Call load_state_dict() with what state_dict() of the recorder returned, or, where that "
        "is lost, open(step) with the number of steps taken.",
    )


def state_of(
    observer: LiveObserver, scalars: Scalars, step: int, optimizers: Mapping[str, int] | None
) -> dict[str, Any]:
    """Everything by name; weights are those that the observer holds, not copies."""
    return {
        "step": step,
        "loss_sum": float(scalars.total),
        "loss_count": scalars.count,
        "previous": [previous.weights or {} for previous in observer.previous.values()],
        "samples": _samples(observer),
    } | ({} if optimizers is None else {"optimizers": dict(optimizers)})


def _samples(observer: LiveObserver) -> list[str]:
    """Which entries the weights that are kept are."""
    return [part.text for _, part in observer.previous]


def take_up(observer: LiveObserver, scalars: Scalars, state: Mapping[str, Any], path: Path) -> None:
    """Be as when `state_of` was asked, but for the step.

    Raises:
        LayerscopeError: The observer has other probes or schedules.
    """
    if lacking := {"step", "loss_sum", "loss_count", "previous"} - state.keys():
        raise LayerscopeError(
            f"the state to resume {path} from lacks {', '.join(sorted(lacking))}.",
            "Pass what state_dict() of the recorder returned.",
        )
    kept = [set(weights or ()) for weights in state["previous"]]
    names = [set(previous.names) for previous in observer.previous.values()]
    # Nothing is kept where nothing was measured yet.
    if (
        len(kept) != len(names)
        or any(k and k != n for k, n in zip(kept, names, strict=True))
        or state.get("samples", [""] * len(kept)) != _samples(observer)
    ):
        raise LayerscopeError(
            f"{path} was recorded with other probes.",
            "Resume with the same probes and schedules; measure others afterwards.",
        )
    scalars.total, scalars.count = state["loss_sum"], state["loss_count"]
    pairs = zip(observer.previous.values(), state["previous"], strict=True)
    for previous, weights in pairs:
        previous.weights = weights or None
