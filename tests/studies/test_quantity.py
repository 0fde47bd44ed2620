import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import noisy

from layerscope.errors import LayerscopeError
from layerscope.probes import Convergence, WeightChange
from layerscope.studies.comparisons import (
    alike,
    each,
    exceeds,
    extreme,
    falls,
    in_each,
    in_each_layer,
)
from layerscope.studies.quantity import combined, measured, stacked, statistic

LATE, EARLY = Convergence(intervals=((5, 10),)), Convergence(intervals=((0, 5),))
LAYERS = ["a", "b", "c"]


def rates(values):
    return xr.Dataset(
        {"rate": noisy([values], "interval", "layer")},
        coords={"layer": LAYERS, "seed": range(5), "group": ("layer", ["x", "x", "y"])},
    )


def moments(values):
    values = np.asarray(values, float)
    coords = {"layer": LAYERS, "step": np.arange(len(values)) * 10, "seed": range(5)}
    coords["epoch"] = ("step", np.arange(len(values), dtype=float))
    return xr.Dataset({"change": noisy(values, "step", "layer")}, coords=coords)


DATA = xr.DataTree.from_dict(
    {
        f"one/{EARLY.key}": rates([3.0, 2.0, 1.0]),
        f"one/{LATE.key}": rates([1.0, 2.0, 3.0]),
        f"two/{EARLY.key}": rates([4.0, 4.0, 4.0]),
        "one/weight_change": moments([[1, 2, 3], [2, 4, 6], [4, 8, 12]]),
    }
)


def rate(probe, variant="one"):
    return measured(probe, "rate", variant).isel(interval=0)


def mean(quantity):
    return quantity.values(DATA).mean("seed").values


def test_two_settings_of_a_probe_are_told_apart():
    assert mean(rate(EARLY)) == pytest.approx([3, 2, 1], rel=1e-3)
    assert mean(rate(LATE)) == pytest.approx([1, 2, 3], rel=1e-3)


def test_arithmetic_is_that_of_the_arrays():
    early, late = rate(EARLY), rate(LATE)
    found = {
        "difference": (early - late, [2, 0, -2]),
        "sum": (early + 1, [4, 3, 2]),
        "less": (1 - early, [-2, -1, 0]),
        "times": (2 * early["a"] - early["c"], 5),
        "ratio": (late / early, [1 / 3, 1, 3]),
        "negative": (-early[["a", "b"]], [-3, -2]),
        "named": (early.named({"b": "B"}), [2]),
        "largest": (early.max("layer"), 3),
        "smallest": (early.layers(lambda name: name > "a").min("layer"), 1),
    }
    for name, (quantity, expected) in found.items():
        assert mean(quantity) == pytest.approx(expected, rel=1e-3, abs=1e-4), name


def test_a_quantity_knows_its_probes_and_variants():
    both = rate(EARLY, "two")["a"] - rate(LATE)["a"]
    assert [probe.key for probe in both.probes] == [EARLY.key, LATE.key]
    assert both.variants == ("two", "one")
    assert exceeds(both, "difference").variants == ("two", "one")
    assert each({"a": exceeds(both, ""), "b": exceeds(rate(EARLY)["a"], "")}).probes == both.probes


MISSING = {
    "variant": (measured(EARLY, "rate", "tow"), "unknown variant 'tow'.*\n.*two"),
    "probe": (measured(LATE, "rate", "two"), "unknown measurement of two 'convergence,intervals"),
    "variable": (measured(EARLY, "rates", "one"), "unknown variable of .* 'rates'.*\n.*rate"),
    "layer": (rate(EARLY)["d"], "unknown layer 'd'"),
    "layers": (rate(EARLY)[["a", "d"]], "unknown layer 'd'"),
    "none": (rate(EARLY).layers(lambda name: False), "none of the layers a, b, c"),
}


@pytest.mark.parametrize(("quantity", "message"), MISSING.values(), ids=MISSING)
def test_what_is_not_there_is_named(quantity, message):
    with pytest.raises(LayerscopeError, match=message):
        quantity.values(DATA)


def test_moments():
    change = measured(WeightChange(), "change", "one")["a"]
    assert mean(change.when(lambda epoch: epoch >= 1)) == pytest.approx([2, 4], rel=1e-3)
    assert mean(change.first("step")) == pytest.approx(1, rel=1e-3)
    assert mean(change.at_end()) == mean(change.last("step"))
    nothing = change.when(lambda epoch: epoch > 9)
    assert np.isnan(mean(nothing.first("step")))
    assert exceeds(nothing.first("step"), "").decide(DATA).outcome == "inconclusive"
    assert change.over_epochs().values(DATA).dims == ("seed", "epoch")


def test_variants_side_by_side():
    joined = stacked("network", {"1": rate(EARLY), "2": rate(EARLY, "two")}, units="1").values(DATA)
    assert dict(joined.sizes) == {"network": 2, "seed": 5, "layer": 3}
    assert joined.attrs["units"] == "1"
    assert list(joined["group"].values) == ["x", "x", "y"]
    lacking = {"1": rate(EARLY), "3": measured(EARLY, "rate", "three").isel(interval=0)}
    assert list(stacked("network", lacking).values(DATA)["network"].values) == ["1"]


def test_functions_of_quantities_and_arrays():
    @statistic
    def share(a, b):
        return a / (a + b)

    quantity = share(rate(EARLY)["a"], rate(EARLY)["c"])
    assert mean(quantity) == pytest.approx(0.75, rel=1e-3)
    assert share(3.0, 1.0) == 0.75
    assert mean(combined(lambda values, n: values * n, rate(EARLY)["a"], 2)) == pytest.approx(
        6, rel=1e-3
    )


def test_comparisons():
    early, late = rate(EARLY), rate(LATE)
    found = {
        "falls": falls(early, "C", LAYERS),
        "rises": falls(late, "C", LAYERS),
        "largest": extreme(early, "a", ["b", "c"], "C"),
        "not the largest": extreme(late, "a", ["b", "c"], "C"),
        "smallest": extreme(late, "a", ["b", "c"], "C", smallest=True),
        "every layer": in_each_layer(early, "C of", 0.5),
        "not every layer": in_each_layer(early, "C of", 1.5),
        "both": in_each({"one": early["a"], "two": late["c"]}, "{}: C", 2.5),
        "one of both": in_each({"one": early["a"], "two": late["a"]}, "{}: C", 2.5),
    }
    outcomes = {name: one.decide(DATA).outcome for name, one in found.items()}
    negative = {"rises", "not the largest", "not every layer", "one of both"}
    assert outcomes == {name: "fails" if name in negative else "holds" for name in found}
    assert "a - b holds" in found["falls"].decide(DATA).note
    assert found["one of both"].decide(DATA).statistic == "two: C"


def test_the_mean_of_a_group():
    early = rate(EARLY).group("x").values(DATA)
    np.testing.assert_allclose(early, 2.5, rtol=1e-4)
    assert early.dims == ("seed",)
    with pytest.raises(LayerscopeError, match=r"unknown group of layers 'z'.*\n?.*x"):
        rate(EARLY).group("z").values(DATA)


@pytest.mark.parametrize(
    ("difference", "deviation", "outcome"),
    [
        (0.0, 0.01, "holds"),
        (0.15, 0.01, "holds"),
        (-0.15, 0.01, "holds"),
        (0.5, 0.01, "fails"),
        (-0.5, 0.01, "fails"),
        (0.0, 1.0, "inconclusive"),  # no difference was found, but for want of evidence
        (0.2, 0.1, "inconclusive"),
    ],
)
def test_what_is_alike_lies_within_the_margin(difference, deviation, outcome):
    noise = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * deviation
    data = xr.Dataset({"rate": ("seed", difference + noise)}, {"seed": range(5)})
    tree = xr.DataTree.from_dict({f"one/{EARLY.key}": data})
    comparison = alike(measured(EARLY, "rate", "one"), "difference", 0.2)
    assert comparison.decide(tree).outcome == outcome
    assert comparison.variants == ("one",)
