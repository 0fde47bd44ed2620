"""Recipes on relative weight change: what they claim follows from the numbers."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, verdicts

from layerscope.recipes import find
from layerscope.recipes.relative_weight_change.settings import GROUPS, NETWORKS, TWELVE, study

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
def test_blocks_are_alike_within_a_margin_and_not_for_want_of_evidence(ratio, outcome):
    recipe = find("relative_weight_change.fig3")("small")
    levels = {"block 3": 1.0, "block 4": ratio}
    found = verdicts(recipe, made(any=(levels, 0.01)))["block4-like-block3"]
    assert found.outcome == outcome
    noise = verdicts(recipe, made(any=(levels, 0.01)))["block4-like-block3"]
    assert noise.n_seeds == 5


def test_groups_of_vgg():
    hill = {"early": 1.0, "middle": 3.0, "late": 2.0}
    flatter = {"early": 1.0, "middle": 2.2, "late": 2.0}
    found = decided(find("relative_weight_change.fig7")("small"), made(any=(hill, 0.01)))
    assert set(found.values()) == {"holds"}
    data = made(cifar10=(hill, 0.01), cifar100=(flatter, 0.05))
    found = decided(find("relative_weight_change.fig8")("small"), data)
    assert set(found.values()) == {"holds"}
    data = made(cifar10=(flatter, 0.05), cifar100=(hill, 0.01))
    found = decided(find("relative_weight_change.fig8")("small"), data)
    assert (found["gap-smaller"], found["harder"]) == ("fails", "fails")


def test_the_conclusion_speaks_of_each_network_and_of_convolutions_only():
    recipe = find("relative_weight_change.conclusion")("small")
    assert len(recipe.claims) == len(TWELVE)
    rising = {"early": 1.0, "middle": 2.0, "late": 3.0} | BLOCKS
    assert set(decided(recipe, made(any=(rising, 0.01))).values()) == {"holds"}
    falling = {"early": 3.0, "middle": 2.0, "late": 1.0} | FALLING
    assert set(decided(recipe, made(any=(falling, 0.01))).values()) == {"fails"}


@pytest.mark.parametrize(("network", "data"), TWELVE)
def test_the_twelve_are_those_of_table_1(network, data):
    config = study("paper", network, data)
    row = TWELVE[network, data]
    assert config.optimizer.learning_rate == row.learning_rate
    assert config.optimizer.weight_decay == row.weight_decay
    assert (config.optimizer.momentum, config.batch_size, config.milestones) == (0.9, 128, ())
    assert config.epochs == (150 if data.startswith("cifar") else 20)
    assert config.model.width == 1.0
    assert network in NETWORKS
    assert config.groups == GROUPS[network]
