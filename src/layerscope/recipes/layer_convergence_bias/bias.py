"""The bias in a sweep over a setting: claims on it, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from layerscope.probes import Convergence, Performance
from layerscope.recipes.layer_convergence_bias.settings import early, inner_layers, later, titled
from layerscope.studies import curves
from layerscope.studies.comparisons import each, exceeds, in_each
from layerscope.studies.curves import Interval
from layerscope.studies.guards import scored
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Runs
from layerscope.studies.plots import CURVE, OVER_SEEDS, bars, lines, table, with_aside
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.statistics import contrast

EVIDENT = 0.1
"""Relative bias from which on a bias counts as evident; the paper gives no number."""
PER = "1 / epoch"


def first_epochs(runs: Runs) -> tuple[Interval, ...]:
    """The first epochs, over which claims are decided, and the first fifty."""
    return (0, early(runs.first)), (0, later(runs.first))


def summary(
    text: str, intervals: Callable[[Runs], tuple[Interval, ...]] = first_epochs
) -> Callable[[Runs], str]:
    """What is done, and how the bias is measured."""
    return lambda runs: (
        f"{text} The bias is C of the first block less C of the last, the relative bias (C1 - Cn) "
        f"/ (|C1| + |Cn|). Claims are decided over the first {intervals(runs)[0][1]:g} epochs."
    )


class Sweep:
    """One variant per value of a setting.

    Args:
        runs: The runs that are made.
        setting: What is varied, as axes call it.
        intervals: Epochs over which rates are given; the first one decides.
    """

    def __init__(
        self, runs: Runs, setting: str, intervals: tuple[Interval, ...] | None = None
    ) -> None:
        self.runs = runs
        self.setting = setting
        self.intervals = intervals or first_epochs(runs)
        self.probe = Convergence(intervals=self.intervals)
        self.test = Performance()

    def rate(self, name: str, interval: int = 0) -> Quantity:
        """C of a variant's blocks over one of the intervals."""
        run = self.runs[name]
        return curves.rate(run, self.probe, self.intervals[interval])[inner_layers(run)]

    def bias(self, name: str, interval: int = 0) -> Quantity:
        """C of the first block less C of the last."""
        return curves.bias(self.rate(name, interval), inner_layers(self.runs[name]))

    def relative(self, name: str) -> Quantity:
        """Contrast of the first and the last block: 0 for equal rates, 1/3 for twice the rate.

        Also where a block moves away from its final weights, which a ratio of rates would lose.
        """
        found, layers = self.rate(name), inner_layers(self.runs[name])
        return contrast(found[layers[0]], found[layers[-1]])

    def mean(self, name: str) -> Quantity:
        """Mean C of the blocks."""
        return self.rate(name).mean("layer")

    def loss(self, name: str) -> Quantity:
        """Test loss at the end of training."""
        return scored(self.test, name, "loss")

    def biased(self, text: str, *variants: str, name: str = "bias") -> Statement:
        """The first block converges faster than the last, in each of some variants."""
        found = {v: self.bias(v) for v in variants}
        return claim(name, text, in_each(found, "C(first block) - C(last block)"))

    def weaker(self, text: str, strong: str, weak: str, name: str = "weaker") -> Statement:
        """The relative bias is smaller, or reversed, in one variant against another."""
        difference = self.relative(strong) - self.relative(weak)
        return claim(
            name,
            f"The bias is weaker, or reversed, {text}",
            difference,
            "difference of relative biases",
        )

    def gone(self, name: str, place: str, either_way: bool = False) -> Statement:
        """The relative bias of a variant is small, or (not ``either_way``) reversed."""
        found = self.relative(name)
        parts = {f"bias below {EVIDENT}": (EVIDENT - found, "less")}
        if either_way:
            parts[f"bias above {-EVIDENT}"] = (found + EVIDENT, "plus")
        small = f"between -{EVIDENT} and {EVIDENT}" if either_way else f"below {EVIDENT}"
        return claim(
            f"{name}-none",
            f"With {self.runs[name].label} no bias is evident: the relative bias is {small}. "
            f"[{place}]",
            each(
                {
                    part: exceeds(effect, f"{EVIDENT} {word} the relative bias")
                    for part, (effect, word) in parts.items()
                }
            ),
        )

    def _joined(self, of: Callable[[str], Quantity], long_name: str, units: str = "") -> Quantity:
        """Values of all variants along the setting."""
        parts = self.runs.labelled({name: of(name) for name in self.runs})
        return stacked(self.setting, parts, long_name=long_name, units=units)

    def _numbers(self, spans: Sequence[str]) -> Mapping[str, Quantity]:
        """Columns of the table."""
        biases = {
            f"bias{i}": self._joined(
                lambda name, i=i: self.bias(name, i), f"bias, epochs {span}", PER
            )
            for i, span in enumerate(spans)
        }
        return {
            **biases,
            "relative": self._joined(self.relative, f"relative bias, {spans[0]}"),
            "loss": self._joined(self.loss, "test loss", "squared error"),
        }

    def plots(self, aside: str = "") -> Items:
        """Biases as bars and numbers, and curves; ``aside`` is said in every caption."""
        spans = [f"{a:g}-{b:g}" for a, b in self.intervals]
        heading = f"Layer convergence bias by {self.setting}"

        def by_interval(name: str) -> Quantity:
            found = {f"epochs {span}": self.bias(name, i) for i, span in enumerate(spans)}
            return stacked("epochs", found)

        def curve(name: str) -> Quantity:
            return titled(self.runs[name], self.probe, "curve").over_epochs()

        drawn = [
            bars(
                self._joined(by_interval, "C(first block) - C(last block)", PER),
                "bias",
                heading,
                "C of the first block less C of the last block; above zero the first block "
                f"converges faster. {OVER_SEEDS.capitalize()}",
                x=self.setting,
                hue="epochs",
            ),
            table(
                self._numbers(spans),
                "numbers",
                heading,
                f"{OVER_SEEDS[:-1].capitalize()}; the test loss is that at the end of training.",
                rows=self.setting,
            ),
            lines(
                self._joined(curve, "remaining distance to the final weights"),
                "convergence",
                f"Convergence by {self.setting}",
                CURVE,
                x="epoch",
                panel=self.setting,
                references=self.runs.first.marks(),
            ),
        ]
        yield from with_aside(drawn, aside)
