from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests.cases import FCN
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes import DistanceFromInitialisation, PathAndProgress, WeightChange
from layerscope.probes.base import MomentProbe, Variable
from layerscope.probes.given import Given
from layerscope.probes.observer import Observer, Watch
from layerscope.schedule import every

LAYERS = LayerMap.from_model(nn.Sequential(nn.Linear(2, 2)), None)


def weights(value):
    return {"0.weight": torch.full((2, 2), float(value)), "0.bias": torch.full((2,), float(value))}


def nowhere():
    raise LayerscopeError("there is no start.")


def observer(*probes, schedule=every(1), given=Given(), **options):  # noqa: B008
    failed = []
    watches = [Watch(p, schedule, p.select(LAYERS), given.only(p.needed)) for p in probes]
    options = {"initial": nowhere, **options}
    made = Observer(watches, judge=lambda w, s, e: failed.append((w.probe.key, s, e)), **options)
    return made, watches, failed


def seen(made, *values, same=None):
    """Observe weights of these values; live ones are one set that changes in place."""
    for step, value in enumerate(values):
        now = weights(value)
        if same is not None:
            for name, tensor in same.items():
                tensor.copy_(now[name])
            now = same
        made.observe(step, now, made.due(step))


@pytest.mark.parametrize("live", [True, False])
def test_live_weights_that_change_in_place_count_as_those_read_anew(live):
    made, (change, distance), failed = observer(
        WeightChange(minimum_dimensions=1), DistanceFromInitialisation(), live=live
    )
    seen(made, 1, 2, 4, same=weights(0) if live else None)
    assert [(s, float(v["change"])) for s, v in change.rows] == [(1, 1.0), (2, 1.0)]
    assert [(s, float(v["max_distance"])) for s, v in distance.rows] == [(0, 0), (1, 1), (2, 3)]
    assert failed == []


def test_the_moment_before_is_that_of_the_probes_own_schedule():
    made, (change,), _ = observer(WeightChange(minimum_dimensions=1), schedule=every(2))
    seen(made, 1, 5, 2, 7, 6)
    assert [(s, float(v["change"])) for s, v in change.rows] == [(2, 1.0), (4, 2.0)]


def test_a_folding_probe_sees_the_first_moment_with_itself_before():
    made, (path,), _ = observer(PathAndProgress(), final=lambda: weights(4), live=False)
    seen(made, 1, 2, 4)
    legs = torch.stack([values["leg"] for _, values in path.rows]).flatten()
    torch.testing.assert_close(legs, torch.tensor([0.0, 1.0, 2.0]).double() * 6**0.5)


def test_the_start_is_found_where_it_was_not_observed_and_once():
    asked = []
    made, (distance,), _ = observer(
        DistanceFromInitialisation(), initial=lambda: asked.append(1) or weights(1)
    )
    for step in (3, 4):
        made.observe(step, weights(step), made.due(step))
    assert [float(v["max_distance"]) for _, v in distance.rows] == [2.0, 3.0]
    assert asked == [1]


@dataclass(frozen=True)
class Fragile(MomentProbe):
    """Fails at one step."""

    variables = {"one": Variable("one")}  # noqa: RUF012

    def select(self, layers):
        return layers

    def measure(self, moment, layers):
        moment.missing["0"] = f"because of {moment.step}"
        if moment.step == 1:
            raise ZeroDivisionError("by nothing")
        return {"one": torch.ones(1)}

    def figures(self, dataset):
        return []


def test_a_probe_that_fails_is_judged_and_left_out_and_the_others_go_on():
    made, (fragile, distance), failed = observer(Fragile(), DistanceFromInitialisation())
    seen(made, 1, 2, 3)
    assert [(key, step, str(error)) for key, step, error in failed] == [
        ("fragile", 1, "by nothing")
    ]
    assert (fragile.failure.step, fragile.failure.reason) == (1, "ZeroDivisionError: by nothing")
    assert (len(fragile.rows), fragile.missing) == (1, {"0": "because of 0"})
    assert (len(distance.rows), made.active) == (3, [distance])


def test_what_the_judge_raises_ends_it():
    def judge(watch, step, error):
        raise KeyError(watch.probe.key) from error

    watch = Watch(Fragile(), every(1), LAYERS, Given())
    made = Observer([watch], initial=nowhere, judge=judge)
    with pytest.raises(KeyError, match="fragile"):
        seen(made, 1, 2)
    assert watch.failure is None


def test_a_layer_that_changed_is_a_failure_of_the_probes_that_measure_it():
    made, _, failed = observer(DistanceFromInitialisation())
    made.observe(0, weights(1), made.due(0), {"other": "is another"})
    made.observe(1, weights(1), made.due(1), {"0": "there is no '0.bias'"})
    assert [str(error).splitlines()[0] for _, _, error in failed] == [
        "layer '0' is not the one that was recorded so far: there is no '0.bias'."
    ]


def test_what_is_left_at_the_end_compares_no_moments():
    made, (_, distance), _ = observer(
        WeightChange(), DistanceFromInitialisation(), schedule=every(2)
    )
    assert (made.left(4), made.left(5)) == ([], [distance])


def test_forgetting_is_as_before_the_first_moment():
    made, (fragile, distance), _ = observer(Fragile(), DistanceFromInitialisation())
    seen(made, 1, 2)
    made.forget()
    seen(made, 5)
    assert [len(fragile.rows), len(distance.rows), fragile.failure] == [1, 1, None]
    assert float(distance.rows[0][1]["max_distance"]) == 0.0


def test_a_probe_that_evaluates_the_model_gets_plain_weights():
    seen_weights = []

    class Watching(Fragile):
        needs = frozenset({"model"})

        def measure(self, moment, layers):
            seen_weights.append((type(moment.weights), moment.model))
            return {"one": torch.ones(1)}

    model = FCN.model()
    made, _, failed = observer(Watching(), given=Given(model=model, task=FCN.task))
    made.observe(0, weights(1), made.due(0))
    assert (seen_weights, failed) == ([(dict, model)], [])
