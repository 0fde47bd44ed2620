from collections import OrderedDict

import numpy as np
import pytest
import torch
import xarray as xr
from tests.cases import FCN
from torch import nn

from layerscope.data.dataset import Split
from layerscope.data.loader import InOrder
from layerscope.errors import LayerscopeError
from layerscope.networks.attacks import FGSM, PGD, UNBOUNDED, Pixels, correct_under_attack, pieces
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.stochastic import stochastic
from layerscope.networks.task import Task
from layerscope.probes import measure
from layerscope.probes.adversarial import AdversarialAccuracy
from layerscope.runs.store import Run

TASK = Task.classification()
SMALL = {"draws": 2, "repeats": 2, "n_examples": 30, "batch_size": 20, "steps": 2}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.shortcut = nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.conv2(torch.relu(self.conv1(x)))


def build():
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3, stride=2),
            stage1=nn.Sequential(OrderedDict(a=Block(), b=Block())),
            stage2=nn.Sequential(OrderedDict(a=Block())),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            output=nn.Linear(16, 3),
        )
    )


def bright(n=60):
    """Images whose class is how bright they are."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (n,), generator=generator)
    noise = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
    images = (noise + 90 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Split(images, labels, torch.tensor([0.45]), torch.tensor([0.3]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two checkpoints, a model that holds other weights, and test data."""
    torch.manual_seed(0)
    model, data = build(), InOrder(bright(), 25)
    start = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        for batch in data:
            optimizer.zero_grad()
            TASK.loss(model(batch[0]), batch).backward()
            optimizer.step()
    layers = LayerMap.from_model(model, next(iter(data))[0], unit="block")
    checkpoints = {0: start, 45: model.state_dict()}
    path = tmp_path_factory.mktemp("adversarial") / "run"
    run = Run.from_checkpoints(path, checkpoints, model, layers=layers)
    return run, {"model": build(), "task": TASK, "data": data, "factory": build}


def test_accuracies_are_those_of_the_classifiers_by_hand(trained):
    run, given = trained
    before = unique_state(given["model"])
    kept, state = {n: t.clone() for n, t in before.items()}, torch.get_rng_state()
    probe = AdversarialAccuracy(**SMALL, epsilon=0.2, step_size=0.1, seed=4)
    found = measure(probe, run, **given)["accuracy"]
    assert dict(found.sizes) == {"stages_reset": 3, "attack": 3, "repeat": 2}
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(kept[name], t) for name, t in before.items())
    model = run.load(build(), 45)
    pixels = Pixels(given["data"].split.mean, given["data"].split.std)
    attacks = {"clean": (None, 60), "fgsm": (FGSM(0.2), 30), "pgd": (PGD(0.2, 2, 0.1), 30)}
    for repeat in range(2):
        seed = mixed_seed(0, 4, repeat)
        for active in (0, 1, 2):
            classifier = model
            if active:
                classifier = stochastic(model, run.layers, active, 2, seed, build)
            for name, (attack, n) in attacks.items():
                data = pieces(given["data"], 20, n)
                right = correct_under_attack(classifier, data, TASK, attack, pixels, seed)
                assert len(right) == n
                expected = found.sel(stages_reset=active, attack=name, repeat=repeat)
                assert 100 * float(right.double().mean()) == pytest.approx(float(expected))


def test_an_attack_costs_accuracy_and_repeats_differ_in_draws_only(trained):
    run, given = trained
    probe = AdversarialAccuracy(**SMALL, epsilon=0.3, step_size=0.2, random_start=False)
    found = measure(probe, run, **given)
    accuracy = found["accuracy"]
    base = accuracy.sel(stages_reset=0)
    assert (base == base.isel(repeat=0)).all()
    assert float(base.sel(attack="clean", repeat=0)) > 90
    assert (base.sel(attack="fgsm") < base.sel(attack="clean")).all()
    clean = accuracy.sel(attack="clean", stages_reset=[1, 2])
    assert not (clean == clean.isel(repeat=0)).all()
    stages = dict(zip(found["layer"].values, found["stage"].values, strict=True))
    assert stages["stage1.b"] == "stage1"
    assert stages["conv"] == stages["output"] == ""
    assert (found.attrs["n_clean"], found.attrs["n_attacked"]) == (60, 30)
    assert {"long_name", "units", "source"} <= accuracy.attrs.keys()


def test_inputs_that_are_no_images_are_attacked_as_they_are(trained):
    run, given = trained
    data = list(given["data"])
    found = measure(AdversarialAccuracy(**SMALL, active=(0,)), run, **given | {"data": data})
    right = correct_under_attack(
        run.load(build(), 45),
        pieces(data, 20, 30),
        TASK,
        FGSM(),
        Pixels(bounds=UNBOUNDED),
    )
    expected = 100 * float(right.double().mean())
    assert found["accuracy"].sel(attack="fgsm").values == pytest.approx(expected)
    assert "as the model takes them" in AdversarialAccuracy().figures(found)[0].caption


def test_figures_show_configurations_by_attack(trained):
    run, given = trained
    probe = AdversarialAccuracy(**SMALL)
    dataset = measure(probe, run, **given)
    bars, table = probe.figures(dataset)
    assert {(b.label, b.hue) for b in bars.bars()} == {
        (s, a) for s in ("none", "1", "2") for a in ("clean", "FGSM", "PGD")
    }
    mean = dataset["accuracy"].mean("repeat").sel(stages_reset=1, attack="pgd")
    cell = table.cells()[1][2]
    assert cell.value == pytest.approx(float(mean))
    assert cell.margin
    assert [column.header for column in table.resolved()] == ["clean", "FGSM", "PGD"]
    assert "(2 steps of 2/255 from a random point) change pixels from 0 to 1" in bars.caption
    assert "at most 8/255 each. 60 examples clean, 30 attacked" in bars.caption
    seeds = xr.concat([dataset, dataset], xr.DataArray([0, 1], dims="seed", name="seed"))
    assert np.isfinite([b.value for b in probe.figures(seeds)[0].bars()]).all()


def test_a_model_without_residual_blocks_is_refused(tmp_path):
    model = FCN.model()
    run = Run.from_checkpoints(tmp_path / "run", {0: model.state_dict()}, model)
    given = {"model": model, "task": FCN.task, "data": [FCN.batch(0)]}
    with pytest.raises(LayerscopeError, match="no eligible residual block"):
        measure(AdversarialAccuracy(), run, **given)
    found = measure(AdversarialAccuracy(active=(0,), repeats=1), run, **given)
    assert found["accuracy"].shape == (1, 3, 1)
