from __future__ import annotations

import json
import math
import weakref

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, CNN, Recurrent, Tied, classes, tokens
from tests.reference.factors import mean_outer, seen
from tests.training_loop import assert_same, train
from torch import nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.functional import conditioning
from layerscope.models.fcn import fcn
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes import (
    Conditioning,
    ConditioningError,
    SignalMagnitude,
    WeightDomination,
    measure,
    stored,
)
from layerscope.probes.base import Moment
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every

BATCH = classes(6, n=30)(0)
LIVE = (
    Conditioning(spectrum=4),
    ConditioningError(samples=9),
    SignalMagnitude(),
    WeightDomination(),
)


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


def test_normalisations_have_a_panel_of_their_own(tmp_path):
    options = {"task": CNN.task, "batch": CNN.batch(0), "checkpoints": every(1)}
    train(CNN, 1, path=tmp_path / "run", probes=[Conditioning()], measure=every(1), **options)
    dataset = Run.open(tmp_path / "run").results("conditioning")
    matrices, norms = ["0", "4", "9"], ["1", "5"]
    for figure, name in zip(Conditioning().figures(dataset), ("largest", "kappa_50"), strict=True):
        drawn = {}
        for one in figure.series():
            if np.isfinite(one.y).any():
                drawn.setdefault(one.panel, []).append(one.label)
        assert drawn["scales and shifts"] == norms
        assert set(drawn["S_x ⊗ S_g"]) <= set(matrices)
        product = figure.data.sel(matrix="S_x ⊗ S_g", layer="4").values
        expected = dataset[name].sel(layer="4").values
        np.testing.assert_array_equal(product, np.where(np.isfinite(expected), expected, np.nan))
    without = dataset.sel(layer=matrices)
    panels = [list(figure.data["matrix"].values) for figure in Conditioning().figures(without)]
    assert panels == [["S_x", "S_g", "S_x ⊗ S_g"]] * 2


def test_the_largest_eigenvalues_are_kept_where_asked_for():
    rows, found, _ = measured(Conditioning(spectrum=9), mlp())
    assert found["spectrum_input"].shape == (len(rows), 9)
    for i in range(len(rows)):
        kept = found["spectrum_gradient"][i]
        assert float(kept[0]) == float(found["largest_gradient"][i])
        assert int(kept.isnan().sum()) == 9 - (3 if rows.names[i] == "output" else 7)


def test_too_many_features_leave_the_largest_eigenvalue_and_a_reason():
    """Where only one factor is too large, the other has all its numbers."""
    rows, whole, _ = measured(Conditioning(), mlp())
    _, found, moment = measured(Conditioning(most_features=6), mlp())
    reason = "has 7 features and 30 rows, both above 6"
    assert moment.missing == dict.fromkeys(rows.names, reason)
    for name in ("largest", "largest_input", "largest_gradient", "trace_input", "trace_gradient"):
        torch.testing.assert_close(found[name], whole[name], rtol=1e-6, atol=0)
    assert rows.names[0] == "layer1"  # 6 features enter, 7 leave
    for name, value in whole.items():
        if "kappa" in name or "rank" in name:
            expected = torch.full_like(value, torch.nan)
            own = {"_input": 0, "_gradient": 3}.get(name[name.rfind("_") :])
            if own is not None:
                expected[own] = value[own]
            torch.testing.assert_close(found[name], expected, equal_nan=True)


def test_groups_that_are_too_large_have_the_largest_of_their_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(8, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 3))
    batch = classes(8, 5, n=9)(0)
    _, whole, _ = measured(Conditioning(), model, batch)
    for most in (2, 3):  # one factor is too large, or both
        _, found, moment = measured(Conditioning(most_features=most), model, batch)
        assert "0" in moment.missing
        torch.testing.assert_close(found["largest"][0], whole["largest"][0], rtol=1e-6, atol=0)


def test_of_too_many_rows_the_trace_is_known(monkeypatch):
    monkeypatch.setattr(conditioning, "KEPT", 6 * 30)
    rows, found, moment = measured(Conditioning(most_features=5), mlp())
    assert "6 features and 30 rows" in moment.missing["layer1"]
    at = rows.names.index("layer1")
    assert float(found["largest_input"][at]) > 0
    assert math.isnan(float(found["largest_gradient"][at]))
    assert math.isnan(float(found["largest"][at]))
    assert float(found["trace_gradient"][at]) > 0
    model = mlp()
    nn.init.constant_(model.layer2.weight, math.nan)
    with pytest.raises(DivergedError, match="not finite"):
        measured(Conditioning(most_features=5), model)


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
        ({"on": "validation"}, "on of Conditioning"),
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


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batches_are_normalised_in_train_mode_only_and_buffers_are_left_as_found(mode):
    model = mlp(normalisation="batch")
    with torch.no_grad():
        model.norm1.running_mean += 1
    for probe in (Conditioning, ConditioningError, SignalMagnitude, WeightDomination):
        for training in (False, True):
            model.train(training)
            before = {name: value.clone() for name, value in model.state_dict().items()}
            rows, found, _ = measured(probe(mode=mode), model)
            assert {module.training for module in model.modules()} == {training}
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name]), name
            if probe is Conditioning:
                at, twin = rows.names.index("layer2"), mlp(normalisation="batch")
                twin.load_state_dict(before)
                ((x, _),) = seen(twin, BATCH, CLASSIFY, ["layer2"], mode == "train")["layer2"]
                top = float(torch.linalg.eigvalsh(mean_outer(x))[-1])
                assert float(found["largest_input"][at]) == pytest.approx(top, rel=1e-5)


def test_recording_leaves_training_as_it_is(tmp_path):
    """A network with batch norm, dropout and activations in place."""
    plain = train(CNN)
    options = {"path": tmp_path / "run", "task": CNN.task, "batch": CNN.batch(0)}
    options["checkpoints"] = every(6)
    assert_same(train(CNN, probes=LIVE, measure=every(1), **options), plain)


@pytest.mark.parametrize("probe", LIVE, ids=lambda probe: probe.slug)
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
        assert live[name].notnull().any()
    assert len(probe.figures(again)) >= 1


@pytest.mark.parametrize("kind", ["empirical", "exact"])
def test_data_add_up_batch_by_batch_to_one_large_batch(kind, run):
    parts = [CNN.batch(seed) for seed in (1, 2, 3)]
    whole = tuple(torch.cat(one) for one in zip(*parts, strict=True))
    given = {"model": CNN.model(), "task": CNN.task}
    settings = {"fisher": kind, "mode": "eval", "spectrum": 4}
    expected = measure(Conditioning(**settings), run, batch=whole, **given)
    on_test = measure(Conditioning(**settings, on="test"), run, data=parts, **given)
    on_training = Conditioning(**settings, on="training")
    of_training = measure(on_training, run, training_data=parts, **given)
    assert list(on_test["layer"].values) == ["0", "1", "4", "5", "9"]
    for name in expected:
        assert expected[name].notnull().any()
        for found in (on_test, of_training):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-9)
    assert "On the training data;" in on_training.figures(of_training)[0].caption
    with pytest.raises(LayerscopeError, match="needs data"):
        measure(Conditioning(on="test"), run, **given)
    with pytest.raises(LayerscopeError, match="test data have no batches"):
        measure(Conditioning(on="test"), run, data=[], **given)


def test_one_batch_after_the_other_is_asked_for(run):
    """So that memory does not grow with the data: a batch is gone before the next one is there."""
    alive = []

    class Batches:
        def __iter__(self):
            for seed in range(3):
                batch = CNN.batch(seed)
                alive.append(weakref.ref(batch[0]))
                yield batch
                del batch
                assert len(alive) < 2 or alive[-2]() is None

    probe = Conditioning(on="test", mode="eval")
    measure(probe, run, model=CNN.model(), task=CNN.task, data=Batches(), steps=[2])
    assert len(alive) >= 3


def test_data_are_not_for_recorders(tmp_path):
    options = {"task": CLASSIFY, "batch": BATCH, "steps_per_epoch": 2}
    with pytest.raises(LayerscopeError, match=r"on='test'.*data set, which a recorder does not"):
        Recorder(mlp(), tmp_path / "run", probes=[Conditioning(on="test")], **options)


def test_results_from_before_a_setting_are_read_back(run):
    given = {"model": CNN.model(), "task": CNN.task}
    found = measure(Conditioning(), run, **given)
    (key,) = [key for key in run.result_keys if key.startswith("conditioning")]
    settings = json.loads(found.attrs["settings"])
    assert settings.pop("on") == "batch"
    found.attrs["settings"] = json.dumps(settings, sort_keys=True)
    run.replace_results(key, found)
    assert "on" not in stored(Conditioning(), run, **given).attrs["settings"]
    settings["seed"] = 1
    found.attrs["settings"] = json.dumps(settings, sort_keys=True)
    run.replace_results(key, found)
    with pytest.raises(LayerscopeError, match="not with the same settings"):
        stored(Conditioning(), run, **given)
