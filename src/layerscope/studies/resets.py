"""What figures of resets share: their costs, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from layerscope.probes import Reinitialisation
from layerscope.probes.resets import distance_heatmaps, robustness_heatmap, robustness_lines
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import Plot, of_probe
from layerscope.studies.quantity import Quantity


def to_start(variant: Variant, probe: Reinitialisation, variable: str = "degradation") -> Quantity:
    """A variable (seed, layer) for resets to initialisation; the rise of the error by default."""
    return variant.of(probe, variable).sel(checkpoint="0")


def joint_rise(variant: Variant, probe: Reinitialisation) -> Quantity:
    """Rise (seed) when the marked group is reset to initialisation together."""
    return to_start(variant, probe).where(variant.of(probe, "member"), True).mean("layer")


def heatmap(
    variant: Variant,
    probe: Reinitialisation,
    key: str,
    title: str,
    distances: Sequence[str] | None = None,
) -> Plot:
    """Robustness by layer and what it is reset to.

    Args:
        variant: The network.
        probe: The resets.
        key: Names the file.
        title: Heading.
        distances: Key (and title) of two more, of both distances; none by default.
    """
    return of_probe(
        variant,
        probe,
        lambda found: [
            robustness_heatmap(found, key, title),
            *(distance_heatmaps(found, *distances) if distances else ()),
        ],
    )


def heatmaps(runs: Runs, probe: Reinitialisation, distances: bool = False) -> Iterator[Plot]:
    """Robustness of every variant, and beside it both distances where they are wanted."""
    for name, run in runs.items():
        more = (f"distance-{name}", run.label) if distances else None
        yield heatmap(run, probe, f"robustness-{name}", run.label, more)


def as_lines(runs: Runs, probe: Reinitialisation) -> Iterator[Plot]:
    """Robustness of every variant as lines."""
    for name, run in runs.items():
        draw = partial(robustness_lines, key=f"lines-{name}", title=run.label)
        yield of_probe(run, probe, lambda found, draw=draw: [draw(found)])
