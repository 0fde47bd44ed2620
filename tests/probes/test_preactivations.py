from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, CNN, classes
from tests.reference.linearity_probes import inputs_of, mean_preactivation, shares
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.resnet import resnet
from layerscope.networks.layers import LayerMap
from layerscope.networks.sites import find_sites
from layerscope.probes import LinearShare, Preactivations, WeightChange, measure
from layerscope.probes.base import Moment
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every
from layerscope.surgery import linearise

BATCH = classes(3, 8, 8, n=24, n_classes=4)(0)


def plain(residual=False, seed=0):
    """A trained-looking network: shifts and scales of its normalisations are not 0 and 1."""
    torch.manual_seed(seed)
    model = resnet((3, 8, 8), 4, 18, version=1, width=1 / 16, residual=residual)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def measured(probe, model, batch=BATCH, **map):
    layers = LayerMap.from_model(model, batch, forward=CLASSIFY.forward, **map)
    moment = Moment(0, dict(model.state_dict()), model=model, task=CLASSIFY, batch=batch)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_values_equal_the_plain_loop(mode):
    model = plain(residual=True)
    rows, found, _ = measured(Preactivations(mode=mode), model)
    seen = inputs_of(model, rows.names, BATCH, mode == "train")
    assert len(rows) == 17
    for i, name in enumerate(rows.names):
        assert float(found["mean"][i]) == pytest.approx(mean_preactivation(seen[name]), abs=1e-6)
        deviation = float(seen[name].double().std(correction=0))
        assert float(found["deviation"][i]) == pytest.approx(deviation, rel=1e-5)
        kinds = [float(found[k][i]) for k in ("always_on", "always_off", "mixed")]
        assert kinds == pytest.approx(shares(seen[name]))


def test_train_mode_mean_is_the_mean_of_beta_without_residuals():
    model = plain()
    _, found, _ = measured(Preactivations(mode="train"), model)
    betas = [
        float(m.bias.detach().mean()) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    np.testing.assert_allclose(found["mean"], betas, atol=1e-5)
    _, evaluated, _ = measured(Preactivations(), model)
    assert not np.allclose(evaluated["mean"], betas, atol=1e-2)


def test_only_so_many_samples_pass():
    model = plain()
    _, few, _ = measured(Preactivations(samples=6), model)
    _, cut, _ = measured(Preactivations(), model, (BATCH[0][:6], BATCH[1][:6]))
    _, all_, _ = measured(Preactivations(), model)
    assert torch.equal(few["mean"], cut["mean"])
    assert not torch.equal(few["mean"], all_["mean"])


def test_rows_have_the_groups_of_the_layers_behind_which_they_act():
    model = plain()
    rows, _, _ = measured(Preactivations(), model, groups="thirds")
    assert rows.layers[0].group == "early"
    assert rows.layers[-1].group == "late"
    assert [row.depth for row in rows] == list(range(17))
    assert {row.kind for row in rows} == {"ReLU"}


def test_chosen_layers_choose_sites():
    model = plain()
    layers = LayerMap.from_model(model, BATCH, forward=CLASSIFY.forward)
    some = layers.only([name for name in layers.names if name.startswith("stage0")])
    moment = Moment(0, dict(model.state_dict()), model=model, task=CLASSIFY, batch=BATCH)
    assert Preactivations().rows(some, moment).names == ("stage0.activation",)
    head = layers.only(["final_linear"])
    with pytest.raises(LayerscopeError, match="no activation function was found behind"):
        Preactivations().rows(head, moment)


def test_linear_sites_are_measured_too():
    model = linearise(plain(), "first:5", BATCH[0][:2])
    rows, found, _ = measured(Preactivations(), model)
    assert [row.kind for row in rows] == ["ReLU, linear"] * 5 + ["ReLU"] * 12
    assert bool(found["mean"].isfinite().all())


def test_live_values_are_those_of_checkpoints_and_training_is_the_same(tmp_path):
    def train(path=None):
        torch.manual_seed(3)
        model = plain(seed=3)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        probes = [Preactivations(), Preactivations(mode="train"), WeightChange()]
        recorder = path and Recorder(
            model,
            path,
            task=CLASSIFY,
            batch=BATCH,
            probes=probes,
            measure=every(1),
            checkpoints=every(1),
        )
        with recorder or torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                CLASSIFY.loss(model.train()(BATCH[0]), BATCH).backward()
                optimizer.step()
                if recorder:
                    recorder.step()
        return model, recorder

    model, recorder = train(tmp_path / "run")
    alone, _ = train()
    for a, b in zip(model.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for probe in (Preactivations(), Preactivations(mode="train")):
        live = recorder.run.results(probe.key)
        offline = measure(probe, recorder.run, model=plain(), task=CLASSIFY)
        assert live.sizes == {"step": 4, "layer": 17}
        for name in ("mean", "deviation", "mixed"):
            np.testing.assert_allclose(live[name], offline[name], rtol=1e-6, atol=1e-7)


def test_a_model_without_activations_is_refused_with_a_reason():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(LayerscopeError, match="no activation function was found in Sequential"):
        measured(Preactivations(), model)


def test_what_a_model_does_not_reach_is_missing():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("on", torch.ones(()))

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            return self.last(torch.relu(hidden) if self.on > 0 else hidden)

    model, batch = Sometimes(), classes(4)(0)
    layers = LayerMap.from_model(model, batch, forward=CLASSIFY.forward)
    moment = Moment(0, dict(model.state_dict()), model=model, task=CLASSIFY, batch=batch)
    rows = Preactivations().rows(layers, moment)
    off = Moment(
        0, {**moment.weights, "on": -torch.ones(())}, model=model, task=CLASSIFY, batch=batch
    )
    found = Preactivations().measure(off, rows)
    assert rows.names == ("tanh()", "relu()")
    assert off.missing == {"relu()": "did not run"}
    assert found["mean"].isnan().tolist() == [False, True]


class Exploding(nn.Module):
    """What enters its second activation is not finite; a third one acts on complex numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        torch.sigmoid(hidden / 0)
        return self.last(torch.tanh(torch.fft.fft(hidden)).abs())


def test_values_that_are_not_finite_or_not_real_are_missing_at_that_site_only():
    _, found, moment = measured(Preactivations(), Exploding(), classes(4)(0))
    assert moment.missing == {
        "sigmoid()": "before holds values that are not finite",
        "tanh()": "has no real values",
    }
    assert found["mean"].isnan().tolist() == [False, True, True]


def test_where_no_site_has_values_the_first_reason_is_given():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    batch = classes(4)(0)
    with pytest.raises(LayerscopeError, match="'1' before holds values that are not finite"):
        measured(Preactivations(), model, (batch[0] / 0, batch[1]))


@pytest.mark.parametrize("probe", [Preactivations, LinearShare])
def test_modes_are_checked(probe):
    with pytest.raises(LayerscopeError, match="Did you mean 'train'"):
        probe(mode="trian")


def test_figures_of_a_measured_run(run):
    dataset = measure(Preactivations(), run, model=CNN.model(8), task=CNN.task)
    heatmap, lines = Preactivations().figures(dataset)
    assert heatmap.centre == 0.0
    assert heatmap.matrix()[0].z.shape == (
        len(find_sites(CNN.model(), CNN.batch(0)[0])),
        len(run.steps),
    )
    on, off = (dataset[f"always_{state}"].values for state in ("on", "off"))
    drawn = {(one.panel, one.label): one.y for one in lines.series()}
    for i, name in enumerate(dataset["layer"].values):
        np.testing.assert_array_equal(drawn["always on", name], on[:, i])
        np.testing.assert_array_equal(drawn["always off", name], off[:, i])
