"""Rates and curves of convergence, which figures of several papers are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerscope.probes import Convergence
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import CURVE, OVER_SEEDS, Plot, bars, lines
from layerscope.studies.quantity import Quantity

Interval = tuple[float, float]


def opening(until: int) -> str:
    """``the first 5 epochs``, or ``the first epoch``."""
    return "the first epoch" if until == 1 else f"the first {until} epochs"


def rate(run: Variant, probe: Convergence, interval: Interval | None = None) -> Quantity:
    """C of a variant's layers over an interval of the probe, the first by default."""
    place = 0 if interval is None else probe.intervals.index(interval)
    return run.of(probe, "rate").isel(interval=place)


def bias(values: Quantity, layers: Sequence[str]) -> Quantity:
    """The first of some layers less the last."""
    return values[layers[0]] - values[layers[-1]]


def curves(
    runs: Runs, probe: Convergence, shown: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Plot]:
    """Convergence over epochs of every variant: of the layers that are shown, or of all.

    Lines mark where the learning rate falls.
    """
    for name, run in runs.items():
        curve = run.of(probe, "curve")
        values = curve if shown is None else curve[list(shown[name])]
        yield lines(
            values, f"convergence-{name}", run.label, CURVE, x="epoch", references=run.marks()
        )


def progress(
    unit: str,
    until: int,
    curve: Quantity,
    gradient: Quantity,
    rates: Quantity,
    hue: str | None = None,
    **settings: Any,
) -> Iterator[Plot]:
    """Curves, gradients and rates, as Fig. 1 shows them.

    Args:
        unit: What the layers are, ``"layer"`` or ``"block"``.
        until: End of the interval of the rates, in epochs.
        curve: Remaining distance.
        gradient: Mean absolute gradient.
        rates: C over the interval.
        hue: What bars of one layer differ in.
        settings: Fields of the figures over epochs.
    """
    yield lines(
        curve,
        "convergence",
        f"Convergence of {unit}s",
        f"{CURVE} A {unit} that falls earlier converges faster.",
        x="epoch",
        **settings,
    )
    yield lines(
        gradient,
        "gradients",
        "Gradient magnitude",
        "Mean absolute gradient of the loss on one fixed batch; geometric mean and 95% interval "
        "over seeds.",
        x="epoch",
        log_y=True,
        **settings,
    )
    yield bars(
        rates,
        "rates",
        f"Convergence rate over {opening(until)}",
        "C(0, t) of Definition 2.1: share of the way to the final weights covered per epoch; "
        f"{OVER_SEEDS}",
        **({"hue": hue} if hue else {}),
    )
