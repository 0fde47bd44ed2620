from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from tests.breaking import truncated

from layerscope.errors import LayerscopeError
from layerscope.probes.base import step_coordinates
from layerscope.results import compact, read_parts, write_dataset, write_part

LAYERS = ["layer10", "layer2", "a"]  # not sorted: depth decides, not the alphabet


def part(steps, value=0.0, **more):
    values = np.array([[step + value, 10 * step, 1.0] for step in steps], "float64")
    return xr.Dataset(
        {"change": (("step", "layer"), values, {"units": "1"}), **more},
        coords={"layer": LAYERS, "depth": ("layer", [0, 1, 2]), **step_coordinates(steps, 2)},
        attrs={"probe": "WeightChange"},
    )


PARTS = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True).map(sorted),
    min_size=1,
    max_size=4,
)


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=PARTS)
def test_parts_read_as_one_before_and_after_compaction(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("results")
    for steps in parts:
        write_part(folder, part(steps))
    expected = part(sorted({step for steps in parts for step in steps}))
    xr.testing.assert_identical(read_parts(folder), expected)
    compact(folder)
    compact(folder)
    assert [path.name for path in folder.iterdir()] == ["all.nc"]
    xr.testing.assert_identical(read_parts(folder), expected)


def test_a_step_measured_twice_counts_as_last_written(tmp_path):
    write_part(tmp_path, part([0, 1, 2, 3]))
    compact(tmp_path)
    write_part(tmp_path, part([2, 3, 4], value=0.5))
    found = read_parts(tmp_path)
    assert found["change"].sel(layer="layer10").values.tolist() == [0.0, 1.0, 2.5, 3.5, 4.5]
    assert found["layer"].values.tolist() == LAYERS


def test_parts_may_have_different_variables(tmp_path):
    scalars = [
        xr.Dataset({name: ("step", [1.0])}, step_coordinates([step], None))
        for step, name in enumerate(("test_loss", "test_error"))
    ]
    for scalar in scalars:
        write_part(tmp_path, scalar)
    found = read_parts(tmp_path)
    np.testing.assert_array_equal(found["test_loss"], [1.0, np.nan])
    np.testing.assert_array_equal(found["test_error"], [np.nan, 1.0])


def test_coordinates_and_attributes_survive(tmp_path):
    dataset = part([0, 2]).assign_coords(group=("layer", ["", "early", ""]))
    write_dataset(tmp_path / "all.nc", dataset)
    found = read_parts(tmp_path)
    xr.testing.assert_identical(found, dataset)
    assert found["epoch"].values.tolist() == [0.0, 1.0]
    assert found["change"].attrs == {"units": "1"}


def test_nothing_measured_and_damaged_parts(tmp_path):
    with pytest.raises(LayerscopeError, match="there are no results in"):
        read_parts(tmp_path)
    compact(tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_part(tmp_path, part([0]))
    write_part(tmp_path, part([1]))
    truncated(tmp_path / "000000001-000000001.nc", 0.5)
    with pytest.raises(LayerscopeError, match=r"000000001-000000001.nc is truncated"):
        read_parts(tmp_path)
