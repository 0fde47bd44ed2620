from __future__ import annotations

import pytest

from layerscope.errors import LayerscopeError
from layerscope.probes import PROBES, Convergence, Performance, WeightChange
from layerscope.probes.expression import parse


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_is_read_back_from_its_name(name):
    assert PROBES[name]().expression == name
    assert parse(name) == parse(f"{name}()") == PROBES[name]()


@pytest.mark.parametrize(
    ("probe", "text"),
    [
        (WeightChange(reduction="angle"), "weight_change(reduction='angle')"),
        (WeightChange(p=2.0, size_matched=True), "weight_change(p=2.0, size_matched=True)"),
        (Convergence(intervals=((0, 1),)), "convergence(intervals=((0, 1),))"),
        (Performance("all"), "performance(checkpoints='all')"),
        (WeightChange(p=float("inf")), "weight_change(p=1e999)"),
    ],
)
def test_settings_that_differ_are_written_and_read(probe, text):
    assert probe.expression == text
    assert parse(text) == probe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight_chang", "unknown probe 'weight_chang'.*weight_change"),
        ("weight_change(reductoin='angle')", "unknown setting of weight_change 'reductoin'"),
        ("weight_change('angle')", "cannot read the probe"),
        ("weight_change(heading='x')", "unknown setting of weight_change 'heading'"),
        ("weight_change(reduction='angel')", "unknown reduction of WeightChange 'angel'.*angle"),
        ("weight_change(p=0)", "p of WeightChange is 0"),
        ("weight_change(p='x')", "p of WeightChange is 'x'"),
        ("weight_change(p=__import__('os'))", "cannot read the probe"),
        ("a.b()", "cannot read the probe"),
        ("weight_change(", "cannot read the probe"),
        ("", "cannot read the probe"),
    ],
)
def test_what_is_no_probe_is_an_error_that_names_it(text, message):
    with pytest.raises(LayerscopeError, match=f"(?s){message}"):
        parse(text)
