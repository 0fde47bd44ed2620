from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, CNN, classes
from tests.reference.linearity_probes import evaluate, linearised_losses
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.resnet import resnet
from layerscope.networks.affine import with_layer_maps, with_lines
from layerscope.networks.sites import find_sites
from layerscope.probes import LinearisationCost, measure
from layerscope.recording.recorder import Recorder
from layerscope.surgery import linearise

FIT = classes(2, 12, 12, n=120, n_classes=4)(0)
DATA = [classes(2, 12, 12, n=32, n_classes=4)(seed) for seed in (1, 2)]


def trained(seed=0):
    """A network that has learnt a little."""
    torch.manual_seed(seed)
    model = resnet((2, 12, 12), 4, 18, version=1, width=1 / 16, stages=(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        CLASSIFY.loss(model(FIT[0]), FIT).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return trained()


def names_of(model):
    return [site.name for site in find_sites(model, FIT[0][:2])]


@pytest.mark.parametrize("cumulative", [False, True])
def test_costs_of_sites_equal_the_plain_loop(model, cumulative):
    names = names_of(model)
    weights = dict(model.state_dict())
    subject, reasons = with_lines(model, weights, FIT, CLASSIFY, names)
    assert reasons == {}
    found = subject.evaluated(DATA, CLASSIFY, cumulative)
    expected = linearised_losses(model, names, FIT, DATA, CLASSIFY, cumulative)
    np.testing.assert_allclose(found.losses.mean(1), [loss for loss, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.errors, [error for _, error in expected], atol=1e-9)
    assert len({round(loss, 6) for loss, _ in expected}) > 3


def test_variants_share_their_work_where_activations_work_in_place(model, caplog):
    assert model.get_submodule("stage0.activation").inplace
    subject, _ = with_lines(model, dict(model.state_dict()), FIT, CLASSIFY, names_of(model))
    subject.evaluated(DATA, CLASSIFY, False)
    assert [log.name for log in caplog.records if log.name.startswith("layerscope")] == []


def test_the_base_is_the_model_bit_for_bit(model):
    subject, _ = with_lines(model, dict(model.state_dict()), FIT, CLASSIFY, names_of(model))
    with torch.no_grad():
        assert torch.equal(subject.model.eval()(DATA[0][0]), model(DATA[0][0]))


def test_a_linear_network_costs_nothing(model):
    straight = linearise(model, "all", FIT[0][:2])
    subject, _ = with_lines(straight, dict(model.state_dict()), FIT, CLASSIFY, names_of(model))
    losses = subject.evaluated(DATA, CLASSIFY, True).losses.mean(1)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


def test_a_layer_that_is_affine_costs_nothing_and_a_block_costs_what_its_map_costs(model):
    names = ["stage0", "stage1.resblk1", "stage2.resblk1", "final_linear"]
    weights = dict(model.state_dict())
    subject, reasons = with_layer_maps(model, weights, FIT, CLASSIFY, names)
    assert set(reasons) <= {"stage2.resblk1"}
    losses = subject.evaluated(DATA, CLASSIFY, False).losses.mean(1)
    assert float(losses[4]) == pytest.approx(float(losses[0]), rel=1e-4)
    assert abs(float(losses[2] - losses[0])) > 1e-5


def record(model, path):
    with Recorder(model, path, task=CLASSIFY, batch=FIT, steps_per_epoch=1) as recorder:
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        CLASSIFY.loss(model(FIT[0]), FIT).backward()
        optimizer.step()
        recorder.step()
    return recorder.run


@pytest.mark.parametrize("of", ["sites", "first", "layers"])
def test_a_run_is_measured_and_drawn(tmp_path, of):
    run = record(trained(), tmp_path / "run")
    probe = LinearisationCost(of=of, checkpoints="all")
    given = {"model": trained(), "task": CLASSIFY, "data": DATA}
    dataset = measure(probe, run, **given)
    assert dataset.sizes["step"] == 2
    assert dataset.sizes["layer"] == (len(run.layers) if of == "layers" else 5)
    twin = run.load(trained(), 1).eval()
    loss, error = evaluate(twin, DATA, CLASSIFY)
    last = dataset.isel(step=-1)
    assert float(last["base_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(last["base_error"]) == pytest.approx(100 * error)
    np.testing.assert_allclose(
        dataset["loss_increase"] + dataset["base_loss"], dataset["loss"], rtol=1e-6
    )
    figures = probe.figures(dataset)
    expected = ["", "-loss", "-over-time"]
    assert [figure.key for figure in figures] == [f"{probe.slug}{end}" for end in expected]
    assert f"({100 * error:.1f}% at the end)" in figures[0].caption
    assert [bar.value for bar in figures[1].bars()] == last["loss_increase"].values.tolist()
    if of == "sites":
        expected = linearised_losses(twin, names_of(twin), FIT, DATA, CLASSIFY)
        np.testing.assert_allclose(last["loss"], [one[0] for one in expected[1:]], rtol=1e-4)


def test_the_last_checkpoint_alone_by_default(run):
    data = [CNN.batch(1)]
    dataset = measure(LinearisationCost(), run, model=CNN.model(8), task=CNN.task, data=data)
    assert dataset["step"].values.tolist() == run.steps[-1:]


class Flipping(nn.Module):
    """Its second activation acts on complex numbers."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.fft.fft(torch.relu(self.embed(x)))
        return self.head(torch.relu(torch.tanh(hidden).abs() - 0.5))


def untrained(model, batch, path):
    with Recorder(model, path, task=CLASSIFY, batch=batch, steps_per_epoch=1) as recorder:
        return recorder.run


@pytest.mark.parametrize(
    ("of", "missing"),
    [
        ("sites", ["", "does not act on real numbers of several examples", ""]),
        (
            "first",
            [
                "",
                "does not act on real numbers of several examples",
                "follows 'tanh()', which has no line",
            ],
        ),
    ],
)
def test_activations_without_a_line_have_a_reason_instead_of_a_cost(tmp_path, of, missing):
    batch = classes(4)(0)
    run = untrained(Flipping(), batch, tmp_path / "run")
    given = {"model": Flipping(), "task": CLASSIFY, "data": [classes(4)(1)]}
    dataset = measure(LinearisationCost(of=of), run, **given)
    assert dataset["missing"].values.tolist() == missing
    assert dataset["loss_increase"].isnull().values[-1].tolist() == [bool(why) for why in missing]


def test_a_model_without_any_line_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    batch = classes(4)(0)
    run = untrained(model, batch, tmp_path / "run")
    given = {"model": model, "task": CLASSIFY, "data": [batch]}
    given["batch"] = (batch[0] / 0, batch[1])
    with pytest.raises(LayerscopeError, match="'1' before holds values that are not finite"):
        measure(LinearisationCost(), run, **given)


def test_a_model_whose_copy_runs_the_original_is_refused(model):
    wrapped = trained()
    forward = wrapped.forward
    wrapped.forward = lambda x: forward(x)
    for replaced in (with_lines, with_layer_maps):
        with pytest.raises(LayerscopeError, match=r"copy of .* runs modules of the original"):
            replaced(wrapped, dict(model.state_dict()), FIT, CLASSIFY, ["stage0.activation"])


def test_refusals(model):
    with pytest.raises(LayerscopeError, match="Did you mean 'last'"):
        LinearisationCost(checkpoints="lats")
    with pytest.raises(LayerscopeError, match="of of LinearisationCost"):
        LinearisationCost(of="site")
