import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from tests.cases import CNN, FCN

from layerscope import config
from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.names import unique_state
from layerscope.probes import Reinitialisation, measure
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every
from layerscope.training.loop import train
from layerscope.training.problem import restore
from reference import variants as reference


def recorded(case, path, steps=4):
    """A short training of a case, a checkpoint per step."""
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    layers = case.map(model)
    with Recorder(model, path, layers=layers, checkpoints=every(1), measure=every(1)) as recorder:
        for step in range(steps):
            batch = case.batch(step)
            optimizer.zero_grad()
            case.task.loss(case.task.forward(model, batch), batch).backward()
            optimizer.step()
            recorder.step()
    return Run.open(path), model


@pytest.fixture(params=[FCN, CNN], ids=lambda case: case.name)
def made(request, tmp_path):
    case = request.param
    run, model = recorded(case, tmp_path / "run")
    given = {"model": model, "task": case.task, "data": [case.batch(20), case.batch(21)]}
    return run, given | {"factory": case.build}


def test_every_reset_is_that_of_the_plain_loop(made):
    run, given = made
    found = measure(Reinitialisation(checkpoints="all", draws=2), run, **given)
    final = dict(run.checkpoint(run.steps[-1]))
    run.load(given["model"], run.steps[-1])
    for layer in run.layers:
        owned = [*layer.parameters, *layer.buffers]
        resets = [{n: run.checkpoint(s)[n] for n in owned} for s in run.steps]
        losses, correct = reference.evaluate(given["model"], resets, given["data"], given["task"])
        row = found.sel(layer=layer.name, checkpoint=[str(s) for s in run.steps])
        np.testing.assert_allclose(row["error"], 100 * (1 - correct.double().mean(1)), atol=1e-9)
        np.testing.assert_allclose(row["loss"], losses.mean(1), rtol=1e-6)
    assert all(torch.equal(final[n], t) for n, t in unique_state(given["model"]).items())


def test_the_last_checkpoint_gives_the_trained_model(made):
    run, given = made
    found = measure(Reinitialisation(), run, **given)
    last = found.sel(checkpoint=str(run.steps[-1]))
    assert (last["error"] == found["base_error"]).all()
    assert (last["degradation"] == 0).all()
    assert float(last["model_error"]) == float(found["base_error"])


def test_the_whole_model_at_each_checkpoint(made):
    run, given = made
    found = measure(Reinitialisation(checkpoints="all", draws=0), run, **given)
    wholes = [dict(run.checkpoint(step)) for step in run.steps]
    _, correct = reference.evaluate(given["model"], wholes, given["data"], given["task"])
    np.testing.assert_allclose(found["model_error"], 100 * (1 - correct.double().mean(1)))
    assert "random" not in found["checkpoint"].values


def test_statistics_are_kept_or_swapped(tmp_path):
    run, model = recorded(CNN, tmp_path / "run")
    given = {"model": model, "task": CNN.task, "data": [CNN.batch(9)], "factory": CNN.build}
    swap, keep = (
        measure(Reinitialisation(batch_norm=mode, draws=0), run, **given)
        for mode in ("swap", "keep")
    )
    assert not np.allclose(swap["loss"], keep["loss"])
    plain = [layer.name for layer in run.layers if not layer.buffers]
    np.testing.assert_allclose(swap["loss"].sel(layer=plain), keep["loss"].sel(layer=plain))


def test_recalibrated_statistics_are_those_of_the_changed_network(tmp_path):
    run, model = recorded(CNN, tmp_path / "run")
    given = {"model": model, "task": CNN.task, "data": [CNN.batch(9)], "factory": CNN.build}
    given["batch"] = CNN.batch(10)
    found = measure(Reinitialisation(batch_norm="recalibrate", draws=0), run, **given)
    final = dict(run.checkpoint(run.steps[-1]))
    for layer in run.layers:
        variant = final | {n: run.checkpoint(0)[n] for n in layer.parameters}
        expected = reference.recalibrate(CNN.build(), variant, given["batch"], CNN.task)
        losses, _ = reference.evaluate(model, [expected], given["data"], CNN.task)
        row = found["loss"].sel(layer=layer.name, checkpoint="0")
        np.testing.assert_allclose(row, losses.mean(), rtol=1e-5)
    assert (found["degradation"].isel(checkpoint=-1) == 0).all()
    assert float(found["base_error"]) == float(found["model_error"][-1])


@pytest.mark.parametrize("mode", ["keep", "recalibrate"])
def test_statistics_of_a_model_without_any_are_an_error(tmp_path, mode):
    run, model = recorded(FCN, tmp_path / "run")
    given = {"model": model, "task": FCN.task, "data": [FCN.batch(9)], "batch": FCN.batch(8)}
    with pytest.raises(LayerscopeError, match="has no BatchNorm with running statistics"):
        measure(Reinitialisation(batch_norm=mode), run, **given)


def test_distances_are_those_of_the_weights_put_in(made):
    run, given = made
    found = measure(Reinitialisation(checkpoints="all", draws=0), run, **given)
    final = run.checkpoint(run.steps[-1])
    for layer in run.layers:
        for step in run.steps:
            parts = [(run.checkpoint(step)[n] - final[n]).flatten() for n in layer.parameters]
            moved = torch.cat(parts).double()
            row = found.sel(layer=layer.name, checkpoint=str(step))
            rms, largest = moved.square().mean().sqrt(), moved.abs().max()
            np.testing.assert_allclose(row["rms_distance"], rms, rtol=1e-5)
            np.testing.assert_allclose(row["max_distance"], largest, rtol=1e-6)


def test_a_group_of_one_is_the_layer_alone(made):
    run, given = made
    alone = measure(Reinitialisation(), run, **given)
    name = run.layers.names[1]
    joint = measure(Reinitialisation(joint=(name,)), run, **given)
    for variable in ("error", "loss", "degradation", "degradation_error"):
        np.testing.assert_allclose(
            joint[variable].sel(layer=name), alone[variable].sel(layer=name), rtol=1e-6
        )
    assert joint["member"].values.tolist() == [n == name for n in run.layers.names]


def test_layers_of_a_group_are_reset_together(made):
    run, given = made
    first, *rest = run.layers
    found = measure(Reinitialisation(joint=(first.name,), draws=2), run, **given)
    others = [n for layer in rest for n in (*layer.parameters, *layer.buffers)]
    run.load(given["model"], run.steps[-1])
    reset = {n: run.checkpoint(0)[n] for n in others}
    losses, _ = reference.evaluate(given["model"], [reset], given["data"], given["task"])
    rows = found["loss"].sel(layer=[layer.name for layer in rest], checkpoint="0")
    np.testing.assert_allclose(rows, losses.mean(), rtol=1e-6)
    (figure,) = Reinitialisation().figures(found)
    assert [str(n).endswith(" *") for n in figure.matrix()[0].y][:2] == [True, False]


def test_ambient_layers_are_grouped_by_their_labels(made):
    run, given = made
    settings = {"ambient_below": 15.0, "critical_above": 90.0}
    alone = measure(Reinitialisation(draws=0, **settings), run, **given)
    joint = measure(Reinitialisation(joint="ambient", draws=0, **settings), run, **given)
    np.testing.assert_array_equal(joint["member"], alone["label"] == "ambient")


def test_draws_are_neither_the_initialisation_of_a_training_nor_those_of_another_run(tmp_path):
    """A training seeds the same generator as a draw does, often with the same small numbers."""
    drawn, initial = [], []
    for seed in range(3):
        small = config.FCN(1, 8)
        chosen = config.RunConfig(small, epochs=1, batch_size=500, seed=seed)
        run = train(chosen, tmp_path / str(seed), accelerator="cpu")
        made = restore(run)
        context = SimpleNamespace(run=run, model=made.model, factory=made.factory)
        drawn += Reinitialisation(draws=3)._draws(context, run.layers)
        initial.append(run.checkpoint(0))
    weights = [tensors["layer1.weight"] for tensors in (*drawn, *initial)]
    pairs = itertools.combinations(weights, 2)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_draws_are_those_of_the_plain_loop(made):
    """Of the whole construction, which here overrules what the layers' own reset would do."""
    run, given = made
    build = given["factory"]

    def factory():
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        return model

    settings = Reinitialisation(draws=3, ambient_below=20, critical_above=40)
    found = measure(settings, run, **given | {"factory": factory})
    run.load(given["model"], run.steps[-1])
    fresh = []
    for draw in range(3):
        torch.manual_seed(mixed_seed("fresh weights", mixed_seed(0, 0, draw)))
        fresh.append(unique_state(factory()))
    for layer in run.layers:
        owned = [*layer.parameters, *layer.buffers]
        sources = [run.checkpoint(0), *fresh]
        variants = [{}, *({n: weights[n] for n in owned} for weights in sources)]
        _, correct = reference.evaluate(given["model"], variants, given["data"], given["task"])
        base, initial, *drawn = (100 * correct.double()).numpy()
        row, n = found.sel(layer=layer.name), len(base)
        for column, right in (("0", initial), ("random", np.mean(drawn, 0))):
            cost = base - right
            at = row.sel(checkpoint=column)
            np.testing.assert_allclose(at["degradation"], cost.mean(), atol=1e-9)
            np.testing.assert_allclose(at["degradation_error"], cost.std(ddof=1) / n**0.5)
        np.testing.assert_allclose(row["draw_deviation"], np.mean(drawn, 1).std(ddof=1))
        cost = base - initial
        margin = 1.959964 * cost.std(ddof=1) / n**0.5
        low, high = cost.mean() - margin, cost.mean() + margin
        expected = "ambient" if high < 20 else "critical" if low > 40 else "between"
        assert row["label"] == expected


NONSENSE = {
    "no checkpoints": ({"checkpoints": ()}, "checkpoints is empty"),
    "no layers": ({"joint": ()}, "joint is empty"),
    "draws": ({"draws": -1}, "draws is -1"),
    "budget": ({"budget_mb": 0}, "budget_mb 0"),
    "thresholds": ({"ambient_below": 30.0}, "a layer could be both"),
}


@pytest.mark.parametrize(("settings", "message"), NONSENSE.values(), ids=NONSENSE)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(LayerscopeError, match=message):
        Reinitialisation(**settings)


def test_a_group_that_is_empty_is_an_error(made):
    run, given = made
    with pytest.raises(LayerscopeError, match="no layer belongs to the group"):
        measure(Reinitialisation(joint="ambient", ambient_below=-200.0, draws=0), run, **given)


@pytest.mark.parametrize(
    "settings", [{"checkpoints": "lgo"}, {"joint": "evry_other"}, {"batch_norm": "kep"}]
)
def test_mistyped_settings_are_refused(settings):
    with pytest.raises(LayerscopeError, match="Did you mean"):
        Reinitialisation(**settings)


def test_groups_that_differ_by_seed_say_so(made):
    run, given = made
    names = run.layers.names
    parts = [
        measure(Reinitialisation(joint=joint, draws=0), run, **given)
        for joint in ((names[0], names[1]), (names[0],))
    ]
    both = xr.concat(parts, xr.DataArray([0, 1], dims="seed", name="seed"))
    (figure,) = Reinitialisation().figures(both)
    shown = list(figure.matrix()[0].y)
    assert shown[:3] == [f"{names[0]} *", f"{names[1]} * 1/2", names[2]]


def test_other_test_data_are_measured_anew(made):
    run, given = made
    first = measure(Reinitialisation(), run, **given)
    other = measure(Reinitialisation(), run, **given | {"data": given["data"][:1]})
    assert first.attrs["n_examples"] == 2 * other.attrs["n_examples"]


def test_figures_name_epochs(made):
    run, given = made
    (figure,) = Reinitialisation().figures(measure(Reinitialisation(), run, **given))
    (grid,) = figure.matrix()
    assert next(iter(grid.x)) == "rand"
    assert list(grid.y) == [*run.layers.names, "whole model"]


BAD = {
    "checkpoint": ({"checkpoints": (0, 99)}, {}, "no checkpoint at step 99"),
    "data": ({}, {"data": None}, "needs data"),
    "layer": ({"joint": ("zzz",)}, {}, "no layer matches 'zzz'"),
    "task": ({}, {"task": dataclasses.replace(FCN.task, correct=None)}, "wrong predictions"),
}


@pytest.mark.parametrize(("settings", "changes", "message"), BAD.values(), ids=BAD)
def test_what_is_missing_is_said(made, settings, changes, message):
    run, given = made
    with pytest.raises(LayerscopeError, match=message):
        measure(Reinitialisation(**settings), run, **given | changes)


@pytest.mark.parametrize(
    ("n", "expected"), [(2, [0, 1]), (5, [0, 1, 2, 4]), (21, [0, 1, 2, 4, 8, 16, 20])]
)
def test_log_checkpoints_include_both_ends(n, expected):
    assert Reinitialisation()._steps(SimpleNamespace(steps=list(range(n)))) == expected


@pytest.mark.parametrize("trained", ["never", "later"])
def test_a_layer_that_was_never_trained_is_frozen_and_in_no_group(tmp_path, trained):
    model = FCN.model()
    model.layer2.requires_grad_(False)
    with Recorder(model, tmp_path / "run", checkpoints=every(1), measure=every(1)) as recorder:
        for step in range(2):
            with torch.no_grad():
                model.layer1.bias.add_(1e-6)
                if trained == "later" and step == 1:
                    model.layer2.weight.add_(1e-6)
            recorder.step()
    run = Run.open(tmp_path / "run")
    given = {"model": model, "task": FCN.task, "data": [FCN.batch(20)], "factory": FCN.build}
    probe = Reinitialisation(checkpoints="all", draws=1)
    label = measure(probe, run, **given)["label"]
    assert label.attrs["long_name"] == "kind of layer"
    expected = "frozen" if trained == "never" else "ambient"
    assert str(label.sel(layer="layer2").item()) == expected
    assert str(label.sel(layer="layer1").item()) == "ambient"
    joint = measure(dataclasses.replace(probe, joint="ambient"), run, **given)["member"]
    assert bool(joint.sel(layer="layer2")) is (trained == "later")
