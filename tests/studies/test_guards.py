import numpy as np
import pytest
import xarray as xr

from layerscope.config import Digits, Images, Sine
from layerscope.probes import Performance
from layerscope.studies.claims import above
from layerscope.studies.guards import PLANNED, guessing, if_learnt, when_trained
from layerscope.training.problem import loaded

HOLDS = lambda data: above([1.0, 1.1, 0.9], "effect")  # noqa: E731
GUESSING = {
    "digits": (Digits(), 90.0),
    "a row of the table": (Images("tiny_imagenet"), 99.5),
    "chosen classes": (Images("tiny_imagenet", classes=20), 95.0),
}


@pytest.mark.parametrize(("data", "error"), GUESSING.values(), ids=GUESSING)
def test_the_error_of_guessing(data, error):
    assert guessing(data).value == pytest.approx(error)
    assert guessing(data).variable == "error"


def test_the_best_constant_has_the_variance_of_the_targets_as_its_loss():
    targets = loaded(Sine(n_test=500), None, "cpu").test.targets
    assert guessing(Sine(n_test=500)).value == pytest.approx(float(targets.var(correction=0)))
    assert guessing(Sine()).variable == "loss"


def test_guessing_is_not_known_where_classes_are_not():
    assert guessing(Images("my/own")) is None


def data(error, seeds=3, planned=3):
    values = np.full((seeds, 1), error)
    coords = {"seed": range(seeds), "step": [10]}
    dataset = xr.Dataset({"error": (("seed", "step"), values)}, coords)
    found = {"/": xr.Dataset(attrs={PLANNED: planned}), "a/performance": dataset}
    return xr.DataTree.from_dict(found)


@pytest.mark.parametrize(("error", "outcome"), [(50, "holds"), (85, "holds"), (86, "inconclusive")])
def test_a_network_near_guessing_decides_nothing(error, outcome):
    verdict = if_learnt({"a": Digits()}, Performance(), HOLDS)(data(error))
    assert verdict.outcome == outcome
    assert ("hardly anything" in verdict.note) == (outcome == "inconclusive")
    assert verdict.value == 1.0  # is shown all the same


def test_single_runs_that_have_not_learnt_are_counted_beside_a_decision():
    made = data(10)
    made["a/performance"]["error"][1] = 89.0
    verdict = if_learnt({"a": Digits()}, Performance(), HOLDS)(made)
    assert verdict.outcome == "holds"
    assert verdict.note == "Hardly anything was learnt by 1 of 3 runs of a."


def test_where_guessing_is_not_known_the_claim_is_decided():
    verdict = if_learnt({"a": Images("my/own")}, Performance(), HOLDS)(data(99))
    assert (verdict.outcome, "its classes are not known" in verdict.note) == ("holds", True)


@pytest.mark.parametrize(("left", "outcome"), [(5, "holds"), (3, "holds"), (2, "inconclusive")])
def test_runs_that_diverged(left, outcome):
    verdict = when_trained(["a"], HOLDS)(data(10, left, 5))
    assert verdict.outcome == outcome
    assert (f"{5 - left} of 5 runs of a diverged" in verdict.note) == (left < 5)


def test_a_variant_without_any_run():
    assert when_trained(["a", "b"], HOLDS)(data(10)).note == "3 of 3 runs of b diverged."
