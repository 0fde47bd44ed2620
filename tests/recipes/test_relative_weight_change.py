"""Recipes on relative weight change: what they claim follows from the numbers."""

import numpy as np
import pytest
import torch
import xarray as xr
from tests.recipes.made import decided, noisy, performance

from layerscope.config import SGD
from layerscope.errors import LayerscopeError
from layerscope.functional.equilibrium import equilibrium_angle
from layerscope.models import build
from layerscope.networks.layers import LayerMap
from layerscope.recipes import find
from layerscope.recipes.relative_weight_change.equilibrium import DECAYS
from layerscope.recipes.relative_weight_change.settings import NETWORKS, TWELVE, study

LAYERS = {
    "resnet18": {
        f"stage{i}.resblk{j}.body.conv{k}": f"block {i}"
        for i in (1, 2, 3, 4)
        for j in (1, 2)
        for k in (1, 2)
    },
    "vgg19": {
        f"conv{i}.conv": "early" if i < 5 else "middle" if i < 12 else "late" for i in range(1, 17)
    },
    "alexnet": {
        f"conv{i}.conv": ("early", "middle", "middle", "late", "late")[i - 1] for i in range(1, 6)
    },
}


def change(network, levels, factor=1.0, first=100.0):
    """A change of each group that is the same at every epoch but the first."""
    groups = {"stem": "", **LAYERS[network], "final_linear": ""}
    per_layer = [factor * levels.get(group, first) for group in groups.values()]
    values = np.array([[first] * len(groups), per_layer, per_layer])
    coords = {
        "seed": range(5),
        "step": [1, 2, 3],
        "epoch": ("step", [1.0, 2.0, 3.0]),
        "layer": list(groups),
        "group": ("layer", list(groups.values())),
    }
    return xr.Dataset({"change": noisy(values, "step", "layer")}, coords)


def made(**levels):
    """Data in which a variant's groups change so much, under every measure."""

    def of(variant):
        network, _, data = variant.partition("-")
        changes, factor = levels.get(data, next(iter(levels.values())))
        return {"weight_change": change(network, changes, factor), "performance": performance()}

    return of


BLOCKS = {f"block {i}": float(i) for i in (1, 2, 3, 4)}
FALLING = {f"block {i}": 5.0 - i for i in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    "figure", ["fig1", "fig2", "fig4", "fig5", "fig6", "fig9", "fig10", "fig13"]
)
def test_a_later_block_changes_more_or_less(figure):
    recipe = find(f"relative_weight_change.{figure}")("small")
    (up,) = decided(recipe, made(any=(BLOCKS, 0.01))).values()
    (down,) = decided(recipe, made(any=(FALLING, 0.01))).values()
    assert (up, down) == ("holds", "fails")


@pytest.mark.parametrize("figure", ["fig11", "fig14"])
def test_block_four_changes_less_than_block_three(figure):
    recipe = find(f"relative_weight_change.{figure}")("small")
    assert list(decided(recipe, made(any=(FALLING, 0.01))).values()) == ["holds"]
    assert list(decided(recipe, made(any=(BLOCKS, 0.01))).values()) == ["fails"]


@pytest.mark.parametrize(
    ("ratio", "outcome"), [(1.0, "holds"), (1.2, "holds"), (1 / 1.2, "holds"), (1.3, "fails")]
)
def test_blocks_are_alike_within_a_margin(ratio, outcome):
    recipe = find("relative_weight_change.fig3")("small")
    levels = {"block 3": 1.0, "block 4": ratio}
    assert decided(recipe, made(any=(levels, 0.01)))["block4-like-block3"] == outcome


HILL = {"early": 1.0, "middle": 3.0, "late": 2.0}
RISING = {"early": 1.0, "middle": 2.0, "late": 3.0}
LATE_LEAST = {"early": 2.0, "middle": 3.0, "late": 1.0}


@pytest.mark.parametrize(
    ("figure", "levels", "other"),
    [
        ("fig7", HILL, {"early": 3.0, "middle": 1.0, "late": 2.0}),
        ("fig15", LATE_LEAST, RISING),
        ("fig17", HILL, {"early": 3.0, "middle": 1.0, "late": 2.0}),
        ("fig18", RISING, LATE_LEAST),
        ("fig19", RISING, LATE_LEAST),
        ("fig20", RISING, LATE_LEAST),
    ],
)
def test_figures_of_three_groups(figure, levels, other):
    recipe = find(f"relative_weight_change.{figure}")("small")
    assert set(decided(recipe, made(any=(levels, 0.01))).values()) == {"holds"}
    assert "fails" in decided(recipe, made(any=(other, 0.01))).values()


@pytest.mark.parametrize(("figure", "levels"), [("fig12", BLOCKS), ("fig16", LATE_LEAST)])
def test_layers_change_more_on_fashion_mnist_than_on_mnist(figure, levels):
    recipe = find(f"relative_weight_change.{figure}")("small")
    data = made(mnist=(levels, 0.01), fashion_mnist=(levels, 0.02))
    assert set(decided(recipe, data).values()) == {"holds"}
    data = made(mnist=(levels, 0.02), fashion_mnist=(levels, 0.01))
    assert decided(recipe, data)["harder"] == "fails"


def test_vgg_on_the_two_sets_of_cifar():
    flatter = {"early": 1.0, "middle": 2.0, "late": 2.2}
    recipe = find("relative_weight_change.fig8")("small")
    found = decided(recipe, made(cifar10=(HILL, 0.01), cifar100=(flatter, 0.05)))
    assert set(found.values()) == {"holds"}
    found = decided(recipe, made(cifar10=(flatter, 0.05), cifar100=(HILL, 0.01)))
    assert set(found.values()) == {"holds", "fails"}
    assert (found["gap-smaller"], found["harder"]) == ("fails", "fails")
    # no gap at all is no smaller gap
    found = decided(recipe, made(cifar10=(RISING, 0.01), cifar100=({**RISING, "late": 9.0}, 0.05)))
    assert found["gap-smaller"] == "fails"


def test_table_1_holds_where_every_network_is_as_good_as_reported():
    recipe = find("relative_weight_change.table1")("small")

    def with_errors(short):
        def of(variant):
            network, _, data = variant.partition("-")
            error = 100 - TWELVE[network, data].accuracy + short
            return {"weight_change": change(network, {}), "performance": performance(error)}

        return of

    assert decided(recipe, with_errors(1.0)) == {"reached": "holds"}
    assert decided(recipe, with_errors(3.0)) == {"reached": "fails"}


def test_the_conclusion_speaks_of_each_network_and_of_convolutions_only():
    recipe = find("relative_weight_change.conclusion")("small")
    assert len(recipe.claims) == len(TWELVE)
    rising = {"early": 1.0, "middle": 2.0, "late": 3.0} | BLOCKS
    assert set(decided(recipe, made(any=(rising, 0.01))).values()) == {"holds"}
    falling = {"early": 3.0, "middle": 2.0, "late": 1.0} | FALLING
    assert set(decided(recipe, made(any=(falling, 0.01))).values()) == {"fails"}


@pytest.mark.parametrize(
    ("network", "data", "rate", "decay"),
    [
        ("resnet18", "cifar10", 0.1, 1e-4),
        ("resnet18", "cifar100", 0.1, 1e-4),
        ("resnet18", "mnist", 0.1, 1e-4),
        ("resnet18", "fashion_mnist", 0.1, 1e-4),
        ("vgg19", "cifar10", 0.05, 5e-4),
        ("vgg19", "cifar100", 0.05, 5e-4),
        ("vgg19", "mnist", 0.05, 5e-4),
        ("vgg19", "fashion_mnist", 0.05, 5e-4),
        ("alexnet", "cifar10", 0.001, 1e-4),
        ("alexnet", "cifar100", 0.01, 1e-4),
        ("alexnet", "mnist", 0.1, 1e-4),
        ("alexnet", "fashion_mnist", 0.1, 1e-4),
    ],
)
def test_the_twelve_are_those_of_table_1(network, data, rate, decay):
    config = study("paper", network, data)
    assert config.optimizer == SGD(rate, momentum=0.9, weight_decay=decay)
    assert (config.batch_size, config.milestones, config.schedule) == (128, (), "step")
    assert config.epochs == (150 if data.startswith("cifar") else 20)
    assert config.model.width == 1.0


@pytest.mark.parametrize("network", LAYERS)
def test_groups_are_those_of_the_paper(network):
    config = study("smoke", network, "cifar10")
    model = build(config.model, (3, 32, 32), 10)
    layers = LayerMap.from_model(
        model, torch.zeros(2, 3, 32, 32), unit=config.unit, groups=config.layer_groups
    )
    inner = [one for one in layers.with_dimensions(2) if "shortcut" not in one.name]
    assert {one.name: one.group for one in inner if one.group} == LAYERS[network]
    outside = [one.name for one in inner if not one.group]
    assert (
        outside
        == {
            "resnet18": ["stage0.conv", "final_linear"],
            "vgg19": ["final_linear"],
            "alexnet": ["fc1.linear", "fc2.linear", "final_linear"],
        }[network]
    )


def test_captions_say_what_was_reduced_of_each_network():
    text = find("relative_weight_change.rotation")("small").reduction
    assert "ResNet-18 on CIFAR-10: 16x16 pixels, batch 128, learning rate 0.1, aug" in text
    assert "VGG-19 on CIFAR-10: 32x32 pixels, batch 128, learning rate 0.05, aug" in text
    assert "batch 32, learning rate 0.03, augmentation (the paper's batch 128 and 0.001" in text
    faster = find("relative_weight_change.fig19")("small", {"epochs": 3})
    assert "3 epochs on 10,000 images" in faster.reduction


# Controls

INNER = {"early": 1.0, "middle": 1.0, "late": 2.0} | {
    f"block {i}": 1.0 + (i == 4) for i in range(5)
}
EVEN = dict.fromkeys(INNER, 1.0)


def moving(epoch, step, measures=None):
    """Data whose groups change so much over an epoch and at a step, under every measure."""

    def of(variant):
        network = variant.partition("-")[0]
        network = network if network in LAYERS else "resnet18"
        steps = change(network, step, 1e-3, first=1.0)
        found = {
            "weight_change": change(network, epoch, 0.01),
            "performance": performance(),
            "weight_change@steps": steps,
            "weight_change,reduction=angle@steps": steps,
        }
        return found | {key: change(network, levels) for key, levels in (measures or {}).items()}

    return of


def test_rotation_at_a_step_and_over_an_epoch():
    recipe = find("relative_weight_change.rotation")("small")
    found = decided(recipe, moving(INNER, EVEN))
    assert {name: outcome for name, outcome in found.items() if name.endswith("epoch")} == (
        dict.fromkeys((f"{n}-cifar10-epoch" for n in NETWORKS), "holds")
    )
    assert "holds" not in {o for name, o in found.items() if name.endswith("step")}
    found = decided(recipe, moving({**INNER, "late": 0.5, "block 4": 0.5}, INNER))
    assert all(o == "fails" for name, o in found.items() if name.endswith("epoch"))
    assert all(o == "holds" for name, o in found.items() if name.endswith("step"))


def test_drift_is_what_an_epoch_has_and_a_step_has_not():
    recipe = find("relative_weight_change.schedule")("small")
    found = decided(recipe, moving(INNER, EVEN))
    assert all(o == "holds" for name, o in found.items() if name.endswith("drift"))
    found = decided(recipe, moving(EVEN, INNER))
    assert all(o == "fails" for name, o in found.items() if name.endswith("drift"))
    assert all(o == "holds" for name, o in found.items() if name.endswith("step"))
    with pytest.raises(LayerscopeError, match="needs every epoch of ResNet-18 on CIFAR-10"):
        find("relative_weight_change.schedule")("small", {"checkpoints": "epochs(5)"})


def test_size():
    recipe = find("relative_weight_change.size")("small")
    more = {**INNER, "late": 4.0, "block 4": 4.0}
    found = decided(recipe, moving(INNER, EVEN, {"weight_change,reduction=elementwise": more}))
    assert {o for n, o in found.items() if n.endswith(("matched", "inflated"))} == {"holds"}
    found = decided(recipe, moving(INNER, EVEN, {"weight_change,reduction=elementwise": EVEN}))
    assert {o for n, o in found.items() if n.endswith("inflated")} == {"fails"}
    found = decided(recipe, moving(EVEN, EVEN, {"weight_change,size_matched=true": INNER}))
    assert {o for n, o in found.items() if n.endswith("matched")} == {"holds"}


def balanced(factors, epochs):
    """Convolutions whose angle per step is so many times that of equilibrium, by variant."""

    def of(variant):
        expected = equilibrium_angle(0.1, DECAYS[variant], 0.9)
        levels = {f"block {i}": factor for i, factor in enumerate(factors[variant], 1)}
        return {
            "performance": performance(),
            "weight_change": change("resnet18", epochs),
            "weight_change,reduction=angle@steps": change(
                "resnet18", levels, expected, first=factors[variant][0]
            ),
        }

    return of


@pytest.mark.parametrize(
    ("strong", "weak", "epochs", "expected"),
    [
        ((1.0, 1.05, 0.97, 1.0), (1.0, 2.0, 3.0, 4.0), BLOCKS, ("holds",) * 4),
        ((1.0, 1.05, 0.97, 1.2), (1.0, 1.0, 1.0, 1.0), EVEN, ("fails",) * 4),
        ((1.3, 1.3, 1.3, 1.3), (1.0, 2.0, 3.0, 4.0), BLOCKS, ("fails", *("holds",) * 3)),
    ],
)
def test_equilibrium(strong, weak, epochs, expected):
    recipe = find("relative_weight_change.equilibrium")("small", {"epochs": 3})
    factors = {"strong": strong, "medium": strong, "paper": weak}
    found = decided(recipe, balanced(factors, epochs))
    ids = ("angle", "same", "epochs-differ", "evens-out")
    assert tuple(found[name] for name in ids) == expected


@pytest.mark.parametrize(
    ("saved", "errors", "expected"),
    [
        (0.3, {"settled": 50.5, "in-order": 50.5, "random": 52.0}, "holds"),
        (0.05, {"settled": 50.0, "in-order": 50.0, "random": 49.0}, "fails"),
        (0.3, {"settled": 53.0, "in-order": 53.0, "random": 51.0}, "fails"),
    ],
)
def test_freezing_has_to_save_and_to_keep_the_accuracy(saved, errors, expected):
    recipe = find("relative_weight_change.freezing")("small")

    def of(variant):
        cost = xr.Dataset({"backward_saved": noisy(saved)}, {"seed": range(5)})
        return {
            "weight_change": change("resnet18", BLOCKS),
            "training_cost": cost,
            "performance": performance(errors.get(variant.partition("-")[2], 50.0)),
        }

    assert set(decided(recipe, of).values()) == {expected}
