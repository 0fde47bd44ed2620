"""Tables that put the paper's numbers beside the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layerscope.recipes.all_layers_created_equal.settings import suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.study import Scale


def beside_reported(
    measured: xr.DataArray,
    dim: str,
    reported: Mapping[str, Sequence[float]],
    scale: Scale,
    caption: str,
) -> Figure:
    """A row for each network; for each value along a dimension the measured and reported number.

    Args:
        measured: Percentages with the dimensions ``network``, ``dim`` and ``seed``.
        dim: The dimension that becomes columns.
        reported: For every value along ``dim`` the paper's numbers by network, NaN for none.
        scale: The scale.
        caption: Where the reported numbers come from.
    """
    import xarray as xr

    from layerscope.figures.figure import Table

    columns: dict[str, xr.DataArray] = {}
    for label in map(str, measured[dim].values):
        name = label.replace(" ", "_")
        columns[name] = measured.sel({dim: label}, drop=True).assign_attrs(
            long_name=label, units="%"
        )
        columns[f"{name}_reported"] = xr.DataArray(
            list(reported[label]),
            dims="network",
            coords={"network": measured["network"]},
            attrs={"long_name": f"{label}, reported", "units": "%"},
        )
    return Table(
        xr.Dataset(columns),
        key="table",
        title=f"Reported and measured{suffix(scale)}",
        caption=caption,
        rows="network",
    )
