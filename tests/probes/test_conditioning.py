from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, Recurrent, Tied, classes, tokens
from tests.reference.factors import mean_outer, seen
from torch import nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.models.fcn import fcn
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes import Conditioning, SignalMagnitude, WeightDomination, measure
from layerscope.probes.base import Moment
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every

BATCH = classes(6, n=30)(0)


def mlp(depth=3, width=7, **options):
    torch.manual_seed(0)
    return fcn((6,), 3, depth, width, **options)


def measured(probe, model, batch=BATCH, task=CLASSIFY, **map):
    layers = LayerMap.from_model(model, batch, forward=task.forward, **map)
    moment = Moment(0, dict(model.state_dict()), model=model, task=task, batch=batch)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


def test_numbers_are_those_of_matrices_that_are_written_out():
    model = mlp()
    rows, found, _ = measured(Conditioning(), model)
    assert rows.names == ("layer1", "layer2", "layer3", "output")
    reference = seen(model, BATCH, CLASSIFY, list(rows.names), training=True)
    for i, name in enumerate(rows.names):
        ((x, g),) = reference[name]
        matrices = {"_input": mean_outer(x), "_gradient": mean_outer(g)}
        matrices[""] = torch.kron(*matrices.values())
        for end, matrix in matrices.items():
            values = torch.linalg.eigvalsh(matrix).flip(0)
            assert float(found[f"largest{end}"][i]) == pytest.approx(float(values[0]), rel=1e-5)
            assert float(found[f"trace{end}"][i]) == pytest.approx(float(values.sum()), rel=1e-5)
            at = math.ceil(round(0.5 * len(values), 6)) - 1
            if values[at] > 1e-9 * values[0]:
                kappa = float(values[0] / values[at])
                assert float(found[f"kappa_50{end}"][i]) == pytest.approx(kappa, rel=1e-3)


def test_gradients_of_a_softmax_sum_to_zero_and_the_last_layer_lacks_a_rank():
    _, found, _ = measured(Conditioning(), mlp())
    assert float(found["rank_gradient"][-1]) == 2
    assert float(found["kappa_100_gradient"][-1]) == math.inf
    assert math.isfinite(float(found["kappa_gradient"][-1]))


def test_a_normalisation_has_its_matrix_and_no_factors():
    rows, found, moment = measured(Conditioning(), mlp(normalisation="batch"))
    at = rows.names.index("norm1")
    assert rows["norm1"].kind == "scale"
    assert float(found["largest"][at]) > 0
    assert math.isnan(float(found["largest_input"][at]))
    assert moment.missing == {}


def test_the_largest_eigenvalues_are_kept_where_asked_for():
    rows, found, _ = measured(Conditioning(spectrum=9), mlp())
    assert found["spectrum_input"].shape == (len(rows), 9)
    for i in range(len(rows)):
        kept = found["spectrum_gradient"][i]
        assert float(kept[0]) == float(found["largest_gradient"][i])
        assert int(kept.isnan().sum()) == 9 - (3 if rows.names[i] == "output" else 7)


def test_too_many_features_leave_the_trace_and_a_reason():
    rows, found, moment = measured(Conditioning(most_features=6), mlp())
    assert "7 features and 30 rows" in moment.missing["layer2"]
    at = rows.names.index("layer2")
    assert math.isnan(float(found["largest"][at]))
    assert float(found["trace_input"][at]) > 0


def test_a_recurrent_layer_says_why_it_has_none():
    _, found, moment = measured(Conditioning(), Recurrent(nn.LSTM), classes(4, 5)(0))
    (reason,) = {why for name, why in moment.missing.items() if "weight" in name}
    assert reason == "takes part in lstm(), in no product that is known"
    assert np.isfinite(found["largest"].numpy()).any()


def test_tied_weights_have_a_row_for_each_role():
    rows, found, _ = measured(Conditioning(), Tied(), tokens(0), Task.language_model())
    assert rows.names == ("embedding", "hidden", "output")
    assert [layer.kind for layer in rows] == ["embedding", "linear", "linear"]
    assert float(found["trace_input"][0]) == pytest.approx(1)


@pytest.mark.parametrize("unit", ["tensor", "module"])
def test_rows_do_not_depend_on_what_a_layer_is(unit):
    rows, _, _ = measured(Conditioning(), mlp(), unit=unit)
    assert rows.names == ("layer1", "layer2", "layer3", "output")


def test_values_that_are_not_finite_are_an_error():
    model = mlp()
    nn.init.constant_(model.layer2.weight, math.nan)
    for probe in (Conditioning(), SignalMagnitude()):
        with pytest.raises(DivergedError, match="not finite"):
            measured(probe, model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fisher": "true"}, "kind of Fisher"),
        ({"mode": "test"}, "mode of Conditioning"),
        ({"places": "pixels"}, "places"),
        ({"shares": (0.0,)}, "shares"),
        ({"most_features": 0}, "most_features"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(LayerscopeError, match=message):
        Conditioning(**settings)


def test_signals_are_root_mean_squares():
    model = mlp(normalisation="batch")
    rows, found, moment = measured(SignalMagnitude(), model)
    assert rows.names[1] == "norm1"
    assert math.isnan(float(found["input"][1]))
    assert moment.missing == {}
    reference = seen(model, BATCH, CLASSIFY, ["layer1", "layer3"], training=True)
    for name, ((x, g),) in reference.items():
        at = rows.names.index(name)
        assert float(found["input"][at]) == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
        size = float(g.square().mean().sqrt())
        assert float(found["gradient"][at]) == pytest.approx(size, rel=1e-4)


def test_weight_domination_is_a_ratio_of_singular_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    batch = classes(3, 6, 6, n=20)(0)
    rows, found, _ = measured(WeightDomination(threshold=0.5, mode="eval"), model, batch)
    CLASSIFY.loss(CLASSIFY.forward(model, batch), batch).backward()
    for i, name in enumerate(rows.names):
        weight = model.get_submodule(name).weight
        expected = [torch.linalg.svdvals(w.flatten(1))[0] for w in (weight.grad, weight.detach())]
        assert float(found["gradient"][i]) == pytest.approx(float(expected[0]), rel=1e-4)
        assert float(found["weight"][i]) == pytest.approx(float(expected[1]), rel=1e-4)
        ratio = float(expected[0] / expected[1])
        assert float(found["ratio"][i]) == pytest.approx(ratio, rel=1e-4)
        assert bool(found["dominated"][i]) == (ratio < 0.5)


def test_weights_of_zero_have_no_ratio():
    model = mlp()
    nn.init.zeros_(model.layer2.weight)
    rows, found, moment = measured(WeightDomination(), model)
    assert moment.missing == {"layer2": "has weights of 0"}
    assert math.isnan(float(found["ratio"][rows.names.index("layer2")]))


@pytest.mark.parametrize("probe", [Conditioning(spectrum=4), SignalMagnitude(), WeightDomination()])
def test_live_and_from_checkpoints_are_equal(probe, tmp_path):
    model = mlp(normalisation="batch")
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(
        model,
        tmp_path / "run",
        task=CLASSIFY,
        batch=BATCH,
        probes=[probe],
        measure=every(2),
        checkpoints=every(2),
    ) as recorder:
        for seed in range(4):
            batch = classes(6, n=30)(seed)
            optimiser.zero_grad()
            CLASSIFY.loss(CLASSIFY.forward(model, batch), batch).backward()
            optimiser.step()
            recorder.step()
    live = recorder.run.results(probe.key)
    again = measure(probe, recorder.run, model=model, task=CLASSIFY)
    for name in live.data_vars:
        np.testing.assert_allclose(live[name].values, again[name].values, rtol=1e-5, atol=1e-12)
    assert len(probe.figures(again)) >= 1
