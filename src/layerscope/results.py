"""Measurements on disk: netCDF files, appended as parts and merged when a run closes."""

from __future__ import annotations

import json
from pathlib import Path

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.files import replacing

ENGINE = "h5netcdf"


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a dataset to a netCDF file that is whole or absent."""
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine=ENGINE)


def read_dataset(path: Path) -> xr.Dataset:
    """Read a whole netCDF file into memory.

    Raises:
        LayerscopeError: The file is missing or damaged.
    """
    try:
        return xr.load_dataset(path, engine=ENGINE)
    except FileNotFoundError as error:
        raise LayerscopeError(f"there is no result file {path}.", "Measure first.") from error
    except (OSError, KeyError, ValueError) as error:
        raise LayerscopeError(
            f"{path} is truncated or no netCDF file: {error}.",
            "Delete it and measure again; checkpoints are not affected.",
        ) from error


def write_part(folder: Path, dataset: xr.Dataset) -> None:
    """Append measurements of some steps to the results of one probe."""
    first, last = int(dataset["step"][0]), int(dataset["step"][-1])
    write_dataset(folder / f"{first:09d}-{last:09d}.nc", dataset)


def read_parts(folder: Path) -> xr.Dataset:
    """All measurements of one probe, by step; a step measured twice counts as last written.

    Raises:
        LayerscopeError: There is none.
    """
    paths = sorted(folder.glob("[!.]*.nc"), key=lambda path: path.stat().st_mtime_ns)
    if not paths:
        raise LayerscopeError(f"there are no results in {folder}.", "Measure first.")
    parts = [read_dataset(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    whole = xr.concat(
        parts,
        "step",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="override",
    )
    return whole.drop_duplicates("step", keep="last").sortby("step")


def compact(folder: Path) -> None:
    """Merge the parts of one probe into one file."""
    paths = [path for path in folder.glob("[!.]*.nc") if path.name != "all.nc"]
    if paths:
        write_dataset(folder / "all.nc", read_parts(folder))
        for path in paths:
            path.unlink()


def settings_attribute(settings: object) -> str:
    """A probe's settings as the text kept in its dataset's attributes."""
    return json.dumps(settings, sort_keys=True, default=str)
