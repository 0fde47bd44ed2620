"""How sentences name activation functions, and the numbers that were measured of them.

A site is named by its position in order of execution, from 0, and by its name, as
``layerscope list sites`` shows both; neighbours are named together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr

from layerscope.functional.estimates import mean_interval

MOST_GROUPS = 4
ONE_RUN = "One run: how far another one would differ is not known."

Sites: TypeAlias = np.ndarray
"""Indices along the dimension of sites, ascending."""


@dataclass(frozen=True, eq=False)
class Estimates:
    """Means over runs with their 95% intervals, and the extremes; all are (moment, site).

    Attributes:
        mean: Mean over runs.
        low: Lower end of the interval of the mean; the value itself where there is one run.
        high: Upper end; the value itself where there is one run.
        least: The smallest value of any run; NaN where a run has none.
        greatest: The largest value of any run; NaN where a run has none.
        runs: How many.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    greatest: np.ndarray
    runs: int

    @classmethod
    def of(cls, values: xr.DataArray) -> Estimates:
        """Those of values over steps and sites, and seeds where there are several runs."""
        if values.sizes.get("seed", 1) == 1:
            alone = values.squeeze("seed") if "seed" in values.dims else values
            array = alone.transpose("step", "layer").values
            return cls(array, array, array, array, array, 1)
        all_ = values.transpose("step", "layer", "seed").values
        found = mean_interval(all_, axis=2)
        return cls(found.mean, found.low, found.high, all_.min(2), all_.max(2), all_.shape[2])

    @property
    def in_each(self) -> str:
        """Where what is said of the extremes holds, to follow a verb."""
        return "" if self.runs == 1 else f" in each of {self.runs} runs"

    @property
    def basis(self) -> str:
        """What the numbers rest on, to end their evidence."""
        if self.runs == 1:
            return ONE_RUN
        return f"Mean and 95% interval over {self.runs} runs."

    def at_end(self, site: int, form: str, most: float = np.inf) -> str:
        """The last value of a site, with its interval, in a format such as ``".1%"``.

        Args:
            site: Its index.
            form: How numbers are written.
            most: The largest value that is possible, where the interval ends at the latest.
        """
        mean = number(self.mean[-1, site], form)
        if self.runs == 1:
            return mean
        low, high = self.low[-1, site], min(self.high[-1, site], most)
        return f"{mean} [{number(low, form)}, {number(high, form)}]"


def number(value: float, form: str) -> str:
    """A number with a minus sign that is one, and none before a zero."""
    text = format(value, form)
    rounded_off = not text.strip("-0.%")
    return text.lstrip("-") if rounded_off else text.replace("-", "\N{MINUS SIGN}")


def where_measured(dataset: xr.Dataset, variable: str) -> xr.Dataset:
    """The moments at which every run has a variable of some site or layer; perhaps none."""
    known = dataset[variable].notnull().any("layer")
    known = known.all("seed") if "seed" in known.dims else known
    return dataset.isel(step=np.flatnonzero(known))


def which(dataset: xr.Dataset, condition: np.ndarray) -> Sites:
    """The sites of which a condition holds."""
    assert condition.shape == (dataset.sizes["layer"],)
    return np.flatnonzero(condition)


def kinds(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The class of activation of every site, whether it is a gate, whether it was left out."""
    parts = [str(kind).split(", ") for kind in dataset["kind"].values]
    gates, linear = (np.array([word in part[1:] for part in parts]) for word in ("gate", "linear"))
    return np.array([part[0] for part in parts]), gates, linear


def name_of(dataset: xr.Dataset, site: int) -> str:
    """The name of one site."""
    return str(dataset["layer"].values[site])


def named(dataset: xr.Dataset, sites: Sites, begin: str = "Activation") -> str:
    """Sites in words: ``Activations 1 to 5 (a to b) and 8 (c)``."""
    positions = dataset["depth"].values[sites]
    parts = np.split(sites, np.flatnonzero(np.diff(positions) != 1) + 1)
    texts = [_group(dataset, part) for part in parts[:MOST_GROUPS]]
    if len(parts) > MOST_GROUPS:
        texts.append(f"{sum(len(part) for part in parts[MOST_GROUPS:])} more")
    return f"{begin}{'s' * (len(sites) > 1)} {joined(texts)}"


def _group(dataset: xr.Dataset, sites: Sites) -> str:
    first, last = sites[0], sites[-1]
    low, high = (int(dataset["depth"].values[site]) for site in (first, last))
    if first == last:
        return f"{low} ({name_of(dataset, first)})"
    between = "to" if high - low > 1 else "and"
    return f"{low} {between} {high} ({name_of(dataset, first)} {between} {name_of(dataset, last)})"


def joined(texts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def agree(sites: Sites, one: str, several: str) -> str:
    """The form of a word that goes with one site or with several."""
    return one if len(sites) == 1 else several


def moment(dataset: xr.Dataset, index: int) -> str:
    """A measured moment in words: ``epoch 3``, or ``step 120`` where epochs are unknown."""
    for name in ("epoch", "step"):
        if name in dataset.coords:
            return f"{name} {float(dataset[name].values[index]):.6g}"
    raise AssertionError("a measurement over time has steps")
