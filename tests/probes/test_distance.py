from __future__ import annotations

import numpy as np
import pytest
from tests.reference import change as reference

from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, measure

PROBE = DistanceFromInitialisation()


def test_values_are_those_of_the_plain_loop(run, weights):
    found = measure(PROBE, run)
    assert found["step"].values.tolist() == [0, 2, 4, 6]
    for row, now in enumerate(weights):
        expected = reference.distance_from_initialisation(weights[0], now, run.layers.owner, 5)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name].isel(step=row), values, rtol=1e-5)


def test_nothing_has_moved_at_the_start(run):
    found = measure(PROBE, run).sel(step=0)
    assert all(not found[name].values.any() for name in PROBE.variables)


def test_without_the_initialisation_the_remedy_is_named(run):
    (run.path / "checkpoints" / "000000000.safetensors").unlink()
    with pytest.raises(LayerscopeError, match=r"at step 0, .*\n.*from_checkpoints.*{0:"):
        measure(PROBE, run)


def test_key_units_and_figures(run):
    found = measure(PROBE, run)
    assert (PROBE.key, PROBE.slug) == (
        "distance_from_initialisation",
        "distance-from-initialisation",
    )
    assert [found[n].attrs["units"] for n in PROBE.variables] == ["weight", "weight", "1"]
    assert len({figure.key for figure in PROBE.figures(found)}) == 2


def test_layers_that_start_at_zero_are_left_out_of_the_relative_figure(run):
    found = measure(PROBE, run)
    found["relative_distance"][1:, 3] = np.inf
    relative, rms = PROBE.figures(found)
    assert relative.data["layer"].values.tolist() == ["0", "1", "4", "9"]
    assert relative.caption.endswith(" Without layers that started at zero: 5.")
    assert rms.data["layer"].values.tolist() == ["0", "1", "4", "5", "9"]
    plain, _ = PROBE.figures(measure(PROBE, run, recompute=True))
    assert plain.caption.endswith("over their norm.")
