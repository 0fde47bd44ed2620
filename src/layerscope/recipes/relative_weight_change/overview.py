"""All twelve networks together: Table 1 and the conclusion."""

from __future__ import annotations

from layerscope.probes import Performance
from layerscope.recipes.relative_weight_change.settings import MEASURES, TWELVE, paper, studies
from layerscope.recipes.relative_weight_change.statements import later
from layerscope.studies.comparisons import in_each
from layerscope.studies.guards import scored
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs
from layerscope.studies.plots import OVER_SEEDS, bars, beside_reported
from layerscope.studies.quantity import stacked


@paper.recipe(
    "Table 1",
    studies(*TWELVE),
    "Which accuracy do the twelve networks reach?",
    "Test accuracy of every network on every data set beside the one reported, trained with the "
    "settings of Table 1.",
)
def table1(runs: Runs) -> Items:
    """Accuracy reached beside accuracy reported for the twelve networks and data sets."""
    test = Performance()
    reached = {run.label: 100 - scored(test, name) for name, run in runs.items()}
    reported = [row.accuracy for row in TWELVE.values()]
    short = {
        label: accuracy - row.accuracy
        for (label, accuracy), row in zip(reached.items(), TWELVE.values(), strict=True)
    }
    yield claim(
        "reached",
        "Every network reaches the accuracy reported, less at most 2 points. [Section 4]",
        in_each(short, "accuracy of {} less that reported, in points", -2.0),
    )
    yield beside_reported(
        {"test accuracy": reached},
        {"test accuracy": dict(zip(reached, reported, strict=True))},
        "Settings from Table 1, accuracies from Section 4; the best learning-rate schedules, which "
        "the paper leaves out on purpose, reach more.",
    )


@paper.recipe(
    "Section 5",
    studies(*TWELVE),
    "Do later layers change more than earlier ones?",
    "Relative weight change of the last third of the convolutions over that of the first third, "
    "for every network and data set, under every measure of change.",
)
def conclusion(runs: Runs) -> Items:
    """Later layers change more than earlier ones: twelve networks, five measures."""
    effects = {run.label: later(run) for run in runs.values()}
    for name, run in runs.items():
        yield claim(
            name.replace("_", "-"),
            f"{run.label}: the last third of the convolutions changes more than the first third. "
            "[Section 5]",
            effects[run.label],
            "log2 of the ratio of changes",
        )
    for measure, probe in MEASURES.items():
        yield bars(
            stacked(
                "network",
                {run.label: later(run, probe) for run in runs.values()},
                long_name="log2 of later over earlier",
                units="",
            ),
            f"later-{probe.slug}",
            f"Later over earlier layers: {measure}",
            "log2 of the ratio of the changes of the last third of the convolutions and of the "
            f"first, epochs from the second on; above 0 later layers change more; {OVER_SEEDS}",
            x="network",
        )
