from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from tests.breaking import truncated

from layerscope.errors import LayerscopeError
from layerscope.probes.base import step_coordinates
from layerscope.runs.results import (
    SEAL,
    compact,
    read_dataset,
    read_parts,
    write_dataset,
    write_part,
)

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
@example(parts=[[0, 1, 2], [0, 2]])
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


def test_a_reason_that_a_later_part_gives_is_kept(tmp_path):
    for step, reasons in ((0, ["", "", "never runs"]), (2, ["", "resized", ""]), (4, None)):
        found = part([step])
        write_part(tmp_path, found.assign_coords(missing=("layer", reasons)) if reasons else found)
    for _ in range(2):
        assert read_parts(tmp_path)["missing"].values.tolist() == ["", "resized", "never runs"]
        compact(tmp_path)


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


# Files that are not what their place says

OURS = {"key": "weight_change", "run": "1"}


def test_what_was_stored_comes_back_without_marks_and_xarray_reads_the_file(tmp_path):
    write_part(tmp_path, part([0, 2]), OURS)
    write_part(tmp_path, part([4]), OURS)
    xr.testing.assert_identical(read_parts(tmp_path, OURS), part([0, 2, 4]))
    compact(tmp_path, OURS)
    xr.testing.assert_identical(read_parts(tmp_path, OURS), part([0, 2, 4]))
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "all.nc"), part([0, 2, 4]))


MISPLACED = {
    "key": (part([0]), {**OURS, "key": "weight_change,p=2.0"}, "another key, 'weight_change,p"),
    "run": (part([0]), {**OURS, "run": "2"}, "another run, '2'"),
    "probe": (part([0]).assign_attrs(probe="Convergence"), OURS, "another probe, 'Convergence'"),
    "empty": (xr.Dataset(), OURS, "holds no measurement"),
}


@pytest.mark.parametrize(("dataset", "belongs", "message"), MISPLACED.values(), ids=MISPLACED)
def test_a_result_in_the_wrong_place_is_named(tmp_path, dataset, belongs, message):
    write_dataset(tmp_path / "all.nc", dataset, belongs)
    with pytest.raises(LayerscopeError, match=rf"all.nc .*{message}"):
        read_parts(tmp_path, OURS)


def changed(path, change):
    """Rewrite a file as a user may with xarray, which leaves out the seal."""
    dataset = change(xr.load_dataset(path))
    dataset.to_netcdf(path, engine="netcdf4")
    assert SEAL not in path.read_bytes()


CHANGES = {
    "missing": (lambda d: d.drop_vars("change"), "holds no measurement"),
    "renamed": (lambda d: d.rename(change="other"), "lacks its variable 'change'"),
    "transposed": (lambda d: d.transpose(), r"'change' over \('layer', 'step'\)"),
    "marks": (lambda d: d.drop_attrs(), "was not written by layerscope"),
    "garbled": (lambda d: d.assign_attrs(variables="["), "'variables' that cannot be read"),
    "probe": (lambda d: d.assign_attrs(probe="Convergence"), "another probe"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_results_that_were_changed_are_named(tmp_path, change, message):
    write_dataset(tmp_path / "all.nc", part([0]), OURS)
    changed(tmp_path / "all.nc", change)
    with pytest.raises(LayerscopeError, match=rf"all.nc .*{message}"):
        read_parts(tmp_path, OURS)


def test_an_attribute_of_ones_own_does_no_harm_and_old_files_have_no_marks(tmp_path):
    write_dataset(tmp_path / "all.nc", part([0]), OURS)
    changed(tmp_path / "all.nc", lambda dataset: dataset.assign_attrs(mine=1))
    assert read_parts(tmp_path, OURS).attrs["mine"] == 1
    part([0]).to_netcdf(tmp_path / "all.nc", engine="netcdf4")
    xr.testing.assert_identical(read_parts(tmp_path, {"key": "weight_change"}), part([0]))


def test_a_part_without_steps_is_named(tmp_path):
    write_part(tmp_path, part([0]))
    write_dataset(tmp_path / "b.nc", xr.Dataset({"x": 1.0}))
    with pytest.raises(LayerscopeError, match=r"b.nc has no steps"):
        read_parts(tmp_path)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("damage", ["flip", "zeros"])
def test_damage_anywhere_is_found(tmp_path, where, damage):
    path = tmp_path / "all.nc"
    write_dataset(path, part([0, 1]), OURS)
    content = bytearray(path.read_bytes())
    start = int(len(content) * where)
    if damage == "flip":
        content[start] ^= 1
    else:
        content[start:] = bytes(len(content) - start)  # as a file system may leave after a crash
    path.write_bytes(content)
    with pytest.raises(LayerscopeError, match=r"all.nc is truncated or no netCDF file"):
        read_dataset(path)
