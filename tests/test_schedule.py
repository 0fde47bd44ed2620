from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from layerscope.errors import LayerscopeError
from layerscope.schedule import Schedule, at, epochs, every, log_spaced, never, parse

NUMBERS = st.integers(1, 40)
SIMPLE = st.one_of(
    st.builds(every, NUMBERS),
    st.builds(epochs, NUMBERS),
    st.builds(log_spaced, NUMBERS),
    st.lists(st.integers(0, 200), max_size=4).map(lambda steps: at(*steps)),
    st.just(never()),
)
SCHEDULES = st.recursive(SIMPLE, lambda inner: st.builds(Schedule.__or__, inner, inner))


def steps(schedule, end=101):
    return [step for step in range(end) if schedule(step)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (every(30), [0, 30, 60, 90]),
        (epochs(2).bind(20), [0, 40, 80]),
        (at(7, 3), [0, 3, 7]),
        (at(), [0]),
        (never(), []),
        (never() | never(), []),
        (never() | every(50), [0, 50, 100]),
        (log_spaced(1), [0, 1, 10, 100]),
        (log_spaced(3), [0, 1, 2, 5, 10, 22, 46, 100]),
        (every(50) | at(3), [0, 3, 50, 100]),
        ((epochs() | log_spaced(1)).bind(45), [0, 1, 10, 45, 90, 100]),
    ],
    ids=str,
)
def test_steps(schedule, expected):
    assert steps(schedule) == expected


@settings(max_examples=40)
@given(schedule=SCHEDULES)
def test_a_schedule_reads_back_from_its_text(schedule):
    again = parse(str(schedule))
    assert str(again) == str(schedule)
    assert steps(again.bind(7)) == steps(schedule.bind(7))


@settings(max_examples=40)
@given(one=SCHEDULES, two=SCHEDULES)
def test_or_is_the_union_and_every_schedule_that_is_not_empty_begins_at_zero(one, two):
    one, two = one.bind(9), two.bind(9)
    assert steps(one | two) == sorted({*steps(one), *steps(two)})
    for schedule in (one, two):
        assert schedule.empty == (steps(schedule) == [])
        assert schedule.empty == (not schedule(0))


@given(per_decade=st.integers(1, 9), decade=st.integers(1, 4))
def test_log_spaced_has_the_same_number_of_steps_in_every_decade(per_decade, decade):
    schedule, high = log_spaced(per_decade), 10 ** (decade + 1)
    distinct = {round(10 ** (decade + k / per_decade)) for k in range(per_decade)}
    found = {step for step in range(high // 10, min(high, 20_000)) if schedule(step)}
    assert found == {step for step in distinct if step < 20_000}


def test_epochs_of_unknown_length():
    with pytest.raises(LayerscopeError, match="does not know how many steps an epoch has"):
        epochs().bind(None)
    with pytest.raises(LayerscopeError, match=r"schedule epochs\(2\)"):
        epochs(2)(5)
    assert every(3).bind(None) == every(3)


BAD = [
    "",
    "every",
    "every(0)",
    "every(-2)",
    "epochs(0)",
    "every(1.5)",
    "every(1, 2)",
    "every(n=1)",
    "every(1) & every(2)",
    "every('a')",
    "every(",
    "__import__('os')",
    "1 | 2",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_schedule(text):
    with pytest.raises(LayerscopeError):
        parse(text)


def test_an_unknown_schedule_suggests_the_nearest():
    with pytest.raises(LayerscopeError, match="Did you mean 'epochs'"):
        parse("epoch(1)")
