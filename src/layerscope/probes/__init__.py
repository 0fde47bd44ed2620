"""Probes: one file per measurement, and `measure` that drives them all."""

from collections.abc import Mapping

from layerscope.probes.adversarial import AdversarialAccuracy
from layerscope.probes.base import (
    FoldingProbe,
    Moment,
    MomentProbe,
    Probe,
    Trajectory,
    TrajectoryProbe,
)
from layerscope.probes.bound import GeneralisationBound
from layerscope.probes.contributions import BlockContributions
from layerscope.probes.convergence import Convergence, PathAndProgress
from layerscope.probes.distance import DistanceFromInitialisation
from layerscope.probes.driver import measure, measure_all
from layerscope.probes.frequency import ResponseFrequency
from layerscope.probes.gradient import GradientMagnitude
from layerscope.probes.kept import stored
from layerscope.probes.landscape import LossLandscape
from layerscope.probes.performance import Performance
from layerscope.probes.predictiveness import GradientPredictiveness
from layerscope.probes.reinitialisation import Reinitialisation
from layerscope.probes.weight_change import WeightChange

PROBES: Mapping[str, type[Probe]] = {
    "weight_change": WeightChange,
    "distance_from_initialisation": DistanceFromInitialisation,
    "convergence": Convergence,
    "path_and_progress": PathAndProgress,
    "gradient_magnitude": GradientMagnitude,
    "gradient_predictiveness": GradientPredictiveness,
    "loss_landscape": LossLandscape,
    "response_frequency": ResponseFrequency,
    "block_contributions": BlockContributions,
    "reinitialisation": Reinitialisation,
    "adversarial_accuracy": AdversarialAccuracy,
    "generalisation_bound": GeneralisationBound,
    "performance": Performance,
}

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
    "Trajectory",
    "TrajectoryProbe",
    "WeightChange",
    "measure",
    "measure_all",
    "stored",
]
