from __future__ import annotations

import numpy as np
import pytest
from tests.reference import change as reference

from layerscope.functional.change import size_matched_indices, subsample
from layerscope.probes import WeightChange, measure

PROBES = [
    WeightChange(p=1.0, minimum_dimensions=1),
    WeightChange(p=2.0),
    WeightChange(p=float("inf")),
    WeightChange(reduction="elementwise"),
    WeightChange(reduction="median"),
    WeightChange(reduction="angle"),
    WeightChange(size_matched=True, subset_seed=3),
]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.key)
def test_values_are_those_of_the_plain_loop(run, probe):
    found = measure(probe, run)
    layers = run.layers.with_dimensions(probe.minimum_dimensions)
    assert found["change"].dims == ("step", "layer")
    assert found["step"].values.tolist() == [2, 4, 6]
    for before, after in ((0, 2), (2, 4), (4, 6)):
        pair = [layers.values(run.checkpoint(step)) for step in (before, after)]
        owner = layers.owner
        if probe.size_matched:
            indices = size_matched_indices([x.n_parameters for x in layers], 3)
            pair, owner = [subsample(side, owner, indices) for side in pair], np.arange(len(layers))
        expected = reference.relative_change(*pair, owner, len(layers), probe.p, probe.reduction)
        np.testing.assert_allclose(found["change"].sel(step=after), expected, rtol=1e-5)


def test_zeros_are_counted_for_the_reductions_they_spoil(run):
    assert "zeros" not in measure(WeightChange(), run)
    found = measure(WeightChange(reduction="median", minimum_dimensions=1), run)
    assert found["zeros"].sel(step=2).values.tolist() == [0, 4, 0, 4, 0]  # BatchNorm's bias
    assert found["zeros"].attrs["units"] == "entries"


def test_matrices_only_unless_asked(run):
    assert measure(WeightChange(), run)["layer"].values.tolist() == ["0", "4", "9"]
    every = measure(WeightChange(minimum_dimensions=1), run)
    assert every["layer"].values.tolist() == ["0", "1", "4", "5", "9"]
    assert every["n_parameters"].values.tolist() == [40, 8, 148, 8, 15]


@pytest.mark.parametrize(
    ("probe", "key", "slug"),
    [
        (WeightChange(), "weight_change", "weight-change"),
        (
            WeightChange(p=2.0, reduction="median"),
            "weight_change,p=2.0,reduction=median",
            "weight-change-p-2.0-reduction-median",
        ),
        (
            WeightChange(size_matched=True),
            "weight_change,size_matched=true",
            "weight-change-size-matched-true",
        ),
    ],
)
def test_key_and_slug(probe, key, slug):
    assert (probe.key, probe.slug) == (key, slug)


def test_figures_have_a_key_each(run):
    for probe in PROBES:
        figures = probe.figures(measure(probe, run))
        assert [figure.key for figure in figures] == [probe.slug]


def test_groups_have_a_figure_of_their_own_means(run):
    dataset = measure(WeightChange(), run)
    names = {"0": "early", "4": "early", "9": "late"}
    grouped = dataset.assign_coords(group=("layer", [names[n] for n in dataset["layer"].values]))
    layers, groups = WeightChange().figures(grouped)
    assert (layers.key, groups.key) == ("weight-change", "weight-change-groups")
    assert groups.data["group"].values.tolist() == ["early", "late"]
    values = dataset["change"].values
    expected = np.stack([np.sqrt(values[:, 0] * values[:, 1]), values[:, 2]])
    np.testing.assert_allclose(groups.data.transpose("group", ...), expected)
    one = dataset.assign_coords(group=("layer", ["early", "", "early"]))
    assert len(WeightChange().figures(one)) == 1
