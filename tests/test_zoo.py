"""Awkward and foreign models against every probe: value, missing with reason, or clear refusal.

``pytest tests/test_zoo.py -s`` prints the table.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.training_loop import assert_same
from tests.zoo import examination as zoo
from tests.zoo.collection import ZOO
from tests.zoo.examination import Examination, examine

from layerscope.probes import PROBES, MomentProbe

pytestmark = pytest.mark.slow
MOMENT = [name for name, probe in PROBES.items() if issubclass(probe, MomentProbe)]
VARIABLES = {
    "gradient_magnitude": ["gradient_magnitude"],
    "gradient_predictiveness": ["data", "parameters"],
    "response_frequency": ["response", "relative_response"],
    "loss_landscape": ["loss", "increase", "curvature"],
    "reinitialisation": ["error", "loss"],
    "preactivations": ["mean", "deviation", "always_on", "always_off", "mixed"],
    "linear_share": ["linear_share", "affinity"],
    "conditioning": ["largest", "trace"],
    "fisher_spectrum": ["largest", "trace"],
    "weight_domination": ["ratio", "gradient", "weight"],
    "linearisation_cost": ["loss", "error", "loss_increase", "error_increase"],
}

SINCE = ("weight_change",)
"""What compares with the moment before, and so has no value at the first one."""


@pytest.fixture(scope="session")
def table():
    """Examinations by name, printed at the end."""
    found: dict[str, Examination] = {}
    yield found
    print(f"\n\n{', '.join(PROBES)}\n. value, m missing, r refused, R raw\n")
    print("\n".join(map(_text, found.values())))


def _text(seen: Examination) -> str:
    """One line of a letter per probe, then what is not a value, from checkpoints and live."""
    if seen.specimen.unrecordable:
        return f"{seen.specimen.name:<24} refused: {seen.refusal or seen.raw}"
    marks = "".join(what[0].replace("v", ".") for what in seen.offline.values())
    rows = [f"{seen.specimen.name:<24} {marks}"]
    for name, what in seen.offline.items():
        live = seen.live.get(name, what)
        rows += [f"    {name}: {what}"] if (what, name) != (_NO_BLOCKS, _BLOCKS) else []
        rows += [f"    {name}, live: {live}"] if live != what else []
    return "\n".join(row for row in rows if not row.endswith(": value"))


_BLOCKS, _NO_BLOCKS = "block_contributions", "refused: no module matches the pattern 'blocks.*'."


@pytest.fixture(scope="module", params=ZOO, ids=lambda specimen: specimen.name)
def seen(request, table, tmp_path_factory):
    """All that is found out about one model."""
    table[request.param.name] = examine(request.param, tmp_path_factory.mktemp("zoo"))
    return table[request.param.name]


@pytest.fixture
def measured(seen):
    """The same, for models that can be recorded."""
    if seen.specimen.unrecordable:
        pytest.skip("cannot be recorded")
    return seen


def test_every_probe_is_there():
    assert zoo.PROBES.keys() == PROBES.keys()
    assert all(type(zoo.PROBES[name]) is probe for name, probe in PROBES.items())


def test_recording_is_refused_where_expected(seen):
    assert bool(seen.refusal) == bool(seen.specimen.unrecordable)
    assert re.search(seen.specimen.unrecordable, seen.refusal)


def test_nothing_raw(seen):
    assert seen.raw == {}


def test_refusals_are_those_expected(measured):
    assert _unexpected(measured.offline, measured.specimen.refusals) == []


def test_refusals_are_those_expected_live(measured):
    expected = {k: v for k, v in measured.specimen.refusals.items() if k in MOMENT}
    expected |= measured.specimen.refused_live
    assert _unexpected(measured.live, expected) == []


def _unexpected(cells: dict[str, str], patterns) -> list[str]:
    refused = {k: v for k, v in cells.items() if not v.startswith(("value", "missing"))}
    return [
        f"{name}: {refused.get(name, 'no longer refused')}"
        for name in sorted(refused.keys() | patterns.keys())
        if name not in refused
        or name not in patterns
        or not re.search(patterns[name], refused[name])
    ]


def test_training_is_the_same_bit_for_bit(measured):
    assert_same(measured.recorded, measured.plain)


def test_training_goes_on_the_same_after_measuring(measured):
    assert_same(*measured.continued)


def test_the_model_is_left_as_found(measured):
    assert measured.changed == {}


def test_the_model_can_be_copied_and_saved(measured):
    assert measured.copies == []


@pytest.mark.parametrize("name", VARIABLES)
def test_what_is_missing_has_a_reason(measured, name):
    if name in measured.results and "layer" in measured.results[name].dims:
        assert zoo.unexplained(measured.results[name], VARIABLES[name]) == []


def test_live_and_from_checkpoints_agree(measured):
    steps = measured.run.steps[-1:] if measured.specimen.carried else measured.run.steps
    for name in measured.read.keys() & measured.results.keys():
        offline = measured.results[name].sel(step=[s for s in steps if s or name not in SINCE])
        live = measured.read[name].sel(step=offline["step"])
        for variable in offline.data_vars:
            _close(measured, live[variable], offline[variable], f"{name} {variable}")


def _close(measured: Examination, found, expected, what: str = "", floor: float = 1e-7) -> None:
    near = {"rtol": measured.specimen.tolerance, "atol": floor}
    np.testing.assert_allclose(found, expected, **near, err_msg=what)


def test_gradients_agree_with_a_plain_backward_pass(measured):
    found = measured.results["gradient_magnitude"]["gradient_magnitude"].isel(step=-1).values
    held = ~np.isnan(found)
    _close(measured, found[held], np.array(measured.gradients)[held])


def test_resets_agree_with_a_plain_loop(measured):
    found = measured.results["reinitialisation"].sel(checkpoint="0")
    for layer, expected in measured.resets.items():
        here = found.sel(layer=layer)
        _close(measured, [float(here["loss"]), float(here["error"])], expected, layer)
