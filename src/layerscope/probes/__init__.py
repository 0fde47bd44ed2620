"""Probes: one file per measurement, and `measure` that drives them all.

A file with a new probe is all that it takes: it is in `PROBES`, and `layerscope.probes` has its
class, without being named here. The classes named below are for editors and type checkers.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerscope import catalogue
from layerscope.probes.base import (
    FoldingProbe,
    Moment,
    MomentProbe,
    Probe,
    Trajectory,
    TrajectoryProbe,
)
from layerscope.probes.driver import measure, measure_all, stored

if TYPE_CHECKING:
    from layerscope.probes.adversarial import AdversarialAccuracy
    from layerscope.probes.bound import GeneralisationBound
    from layerscope.probes.contributions import BlockContributions
    from layerscope.probes.convergence import Convergence, PathAndProgress
    from layerscope.probes.distance import DistanceFromInitialisation
    from layerscope.probes.frequency import ResponseFrequency
    from layerscope.probes.gradient import GradientMagnitude
    from layerscope.probes.landscape import LossLandscape
    from layerscope.probes.performance import Performance
    from layerscope.probes.predictiveness import GradientPredictiveness
    from layerscope.probes.reinitialisation import Reinitialisation
    from layerscope.probes.training_cost import TrainingCost
    from layerscope.probes.training_loss import TrainingLoss
    from layerscope.probes.weight_change import WeightChange

PROBES: Mapping[str, type[Probe]] = catalogue.Classes(catalogue.probes)
"""Every probe by name, in the order of reports; a file is imported when its probe is looked up."""

__all__ = [
    "PROBES",
    "AdversarialAccuracy",
    "BlockContributions",
    "Convergence",
    "DistanceFromInitialisation",
    "FoldingProbe",
    "GeneralisationBound",
    "GradientMagnitude",
    "GradientPredictiveness",
    "LossLandscape",
    "Moment",
    "MomentProbe",
    "PathAndProgress",
    "Performance",
    "Probe",
    "Reinitialisation",
    "ResponseFrequency",
    "TrainingCost",
    "TrainingLoss",
    "Trajectory",
    "TrajectoryProbe",
    "WeightChange",
    "measure",
    "measure_all",
    "stored",
]


def __getattr__(name: str) -> Any:
    for entry in catalogue.probes().values():
        if entry.symbol == name:
            return entry.load()
    raise AttributeError(f"module 'layerscope.probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    symbols = (entry.symbol for entry in catalogue.probes().values())
    return sorted({*__all__, *symbols})
