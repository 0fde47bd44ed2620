"""The claims decide rightly on made data whose answer is known; no test says that science holds."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, tree, verdicts

from layerscope.config import from_dict, to_dict
from layerscope.recipes.layer_convergence_bias import RECIPES
from layerscope.recipes.layer_convergence_bias.connected import LAYERS, fig1a
from layerscope.recipes.layer_convergence_bias.deciding import relative_bias
from layerscope.reproduce import reproduce
from layerscope.studies.study import SCALES

RATES = {"falling": [0.012, 0.009, 0.006], "rising": [0.006, 0.009, 0.012], "flat": [0.01] * 3}
GRADIENTS = {"rising": [1.0, 2.0, 4.0], "falling": [4.0, 2.0, 1.0]}


def made(narrow, wide, gradients, seeds=5):
    noise = np.random.default_rng(0).normal(0, 1e-4, (seeds, 1, 3))
    coords = {"layer": LAYERS, "seed": range(seeds), "epoch": ("step", [0.0, 50.0])}
    nodes = {}
    for variant, rates in (("narrow", RATES[narrow]), ("wide", RATES[wide])):
        rate = (("seed", "interval", "layer"), np.asarray(rates) + noise)
        nodes[f"{variant}/convergence"] = xr.Dataset({"rate": rate}, coords=coords)
        values = np.broadcast_to(GRADIENTS[gradients], (seeds, 2, 3)) * (1 + noise)
        nodes[f"{variant}/gradient_magnitude"] = xr.Dataset(
            {"gradient_magnitude": (("seed", "step", "layer"), values)}, coords=coords
        )
    return xr.DataTree.from_dict(nodes)


CASES = {
    "as reported": (("falling", "rising", "rising"), ("holds", "holds", "holds")),
    "opposite": (("rising", "falling", "falling"), ("fails", "fails", "fails")),
    "no difference": (("flat", "flat", "rising"), ("inconclusive",) * 3),
    "one seed": (("falling", "rising", "rising", 1), ("inconclusive",) * 3),
}


@pytest.mark.parametrize(("data", "outcomes"), CASES.values(), ids=CASES)
def test_claims_of_fig1a(data, outcomes):
    study = fig1a("paper")
    assert tuple(claim.decide(made(*data)).outcome for claim in study.claims) == outcomes


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_makes_a_study(scale):
    study = fig1a(scale)
    assert study.scale == scale
    assert len({config.hash for _, _, config in study.runs()}) == 10


def test_paper_scale_has_the_papers_settings():
    config = fig1a("paper").variants["narrow"]
    assert (config.epochs, config.batch_size, config.milestones) == (300, 128, (150,))
    assert (config.model.depth, config.model.width, config.model.activation) == (3, 32, "sigmoid")
    assert (config.data.n_train, config.data.low, config.data.high) == (5000, -2.0, 2.0)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.1, 0.0)


# The residual network

BLOCKS = ("input", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "output")
SWEEPS = ("fig8a", "fig12", "fig13", "fig14", "fig15", "fig16", "fig20", "domain")
WEAK = {
    "fig8a": {"components1"},
    "fig13": {"lr0.01"},
    "fig14": {"wd0.01"},
    "fig15": {"adagrad", "rmsprop", "adam"},
}


def convergence(rates, seeds=5):
    return xr.Dataset(
        {
            "rate": noisy([rates, rates], "interval", "layer", seeds=seeds),
            "curve": noisy(np.ones((2, 6)), "step", "layer", seeds=seeds),
        },
        coords={
            "layer": list(BLOCKS),
            "seed": range(seeds),
            "epoch": ("step", [0.0, 300.0]),
            "step": [0, 10],
        },
    )


def residual(probe, dataset):
    return {f"residual/{probe}": dataset}


def layered(first, last, **coords):
    """A value per layer, from the first block to the last in equal steps."""
    inner = np.linspace(first, last, 4)
    return [inner[0], *inner, inner[-1]]


@pytest.mark.parametrize(("first", "last", "outcome"), [(2.0, 1.0, "holds"), (1.0, 2.0, "fails")])
def test_claims_of_fig1b(first, last, outcome):
    gradient = noisy([layered(last, first)] * 2, "step", "layer")
    coords = {"layer": list(BLOCKS), "seed": range(5), "epoch": ("step", [0.0, 1.0])}
    nodes = residual("convergence", convergence(layered(first, last)))
    nodes |= residual(
        "gradient_magnitude", xr.Dataset({"gradient_magnitude": gradient}, coords=coords)
    )
    assert set(decided(RECIPES["fig1b"]("paper"), nodes).values()) == {outcome}


@pytest.mark.parametrize(("first", "last", "outcome"), [(0.99, 0.95, "holds"), (0.5, 0.8, "fails")])
def test_claims_of_fig3(first, last, outcome):
    values = noisy([layered(first, last)] * 4, "step", "layer")
    coords = {"layer": list(BLOCKS), "seed": range(5), "epoch": ("step", [0.0, 50.0, 100.0, 200.0])}
    dataset = xr.Dataset({"data": values, "parameters": values}, coords=coords)
    nodes = residual("gradient_predictiveness", dataset)
    assert set(decided(RECIPES["fig3"]("paper"), nodes).values()) == {outcome}


@pytest.mark.parametrize(("first", "last", "outcome"), [(1.0, 3.0, "holds"), (3.0, 1.0, "fails")])
def test_claims_of_fig4_and_fig6(first, last, outcome):
    coords = {"layer": list(BLOCKS), "seed": range(5)}
    rising = noisy(layered(first, last), "layer")
    dataset = xr.Dataset({"increase": rising, "curvature": rising}, coords=coords)
    found = decided(RECIPES["fig4"]("paper"), residual("loss_landscape", dataset))
    assert set(found.values()) == {outcome}
    falling = noisy(layered(last, first), "layer")
    dataset = xr.Dataset({"range": falling, "frequency": rising}, coords=coords)
    dataset = dataset.isel(layer=slice(1, 5))
    found = decided(RECIPES["fig6"]("paper"), residual("block_contributions", dataset))
    assert set(found.values()) == {outcome}


def rates_of(name, i, variant, sign):
    """Rates of the first and the last block that are as reported (1) or the opposite (-1)."""
    if name == "domain":
        return [0.03 + sign * 0.01 * (2.5 - i), 0.03 - sign * 0.01 * (2.5 - i)]
    if name == "fig16":
        reported = {"none": [0.02, 0.01], "batch": [0.04, 0.02], "layer": [0.05, 0.05]}
        opposite = {"none": [0.05, 0.06], "batch": [0.03, 0.04], "layer": [0.02, 0.01]}
        made = reported if sign > 0 else opposite
        return made.get(variant, made["layer"])
    if variant in WEAK.get(name, ()):
        weak = {
            ("fig8a", 1): [0.03, 0.04],
            ("fig8a", -1): [0.03, 0.001],
            ("fig14", 1): [0.01, 0.01],
            ("fig14", -1): [0.09, 0.09],
            ("fig15", -1): [0.09, 0.01],
        }
        return weak.get((name, sign), [0.03, 0.03])
    return [0.03 + sign * 0.01, 0.03 - sign * 0.01]


def swept(name, sign, seeds=5, missing=()):
    """Data of a sweep in which the bias is as reported (1) or the opposite (-1)."""
    study = RECIPES[name]("paper")
    nodes = {}
    for i, variant in enumerate(study.variants):
        layers = layered(*rates_of(name, i, variant, sign))
        if name == "fig20":
            layers = [0.03] * 6
            layers[1 + i] -= sign * 0.01
        loss = 2.0 ** (-sign * i)
        performance = xr.Dataset(
            {"loss": noisy([loss], "step", seeds=seeds)},
            coords={"seed": range(seeds), "step": [10]},
        )
        if variant not in missing:
            nodes[f"{variant}/convergence"] = convergence(layers, seeds)
            nodes[f"{variant}/performance"] = performance
    return study, nodes


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
@pytest.mark.parametrize("name", SWEEPS)
def test_claims_of_sweeps(name, sign, outcome):
    assert set(decided(*swept(name, sign)).values()) == {outcome}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_says_which_setting_diverged(name):
    variants = list(RECIPES[name]("paper").variants)
    study, nodes = swept(name, 1, missing=variants[-1:])
    assert variants[-1] in study.may_diverge
    data = tree(study, nodes)
    noted = [v for v in verdicts(study, nodes) if "5 of 5 runs" in v.note]
    assert noted
    assert {v.outcome for v in noted} == {"inconclusive"}
    assert len(study.figures(data)[1].row_names()) == len(variants) - 1


def test_a_sweep_says_how_many_runs_diverged():
    study, nodes = swept("fig13", 1)
    for key in list(nodes):
        if key.startswith("lr0.1/"):
            nodes[key] = nodes[key].isel(seed=slice(3))
    found = verdicts(study, nodes)
    assert all("2 of 5 runs of lr0.1 diverged" in v.note for v in found)
    assert {v.outcome for v in found} == {"holds"}
    for key in list(nodes):
        if key.startswith("lr0.1/"):
            nodes[key] = nodes[key].isel(seed=slice(2))
    assert {v.outcome for v in verdicts(study, nodes)} == {"inconclusive"}


def test_fewer_seeds_are_no_runs_that_diverged():
    study, nodes = swept("fig13", 1, seeds=2)
    found = verdicts(replace(study, seeds=(0, 1)), nodes)
    assert not any("diverged" in v.note for v in found)
    assert {v.outcome for v in found} == {"holds"}


def test_domains_are_compared_on_the_seeds_that_both_have():
    study, nodes = swept("domain", 1)
    nodes["half1/convergence"] = nodes["half1/convergence"].isel(seed=slice(1, None))
    width = verdicts(study, nodes)[1]
    assert (width.outcome, width.n_seeds) == ("holds", 4)


def test_a_block_that_moves_away_counts():
    """Its ratio of rates has no logarithm; the relative bias has."""
    away = xr.DataArray([[0.1, -0.02]], dims=("seed", "layer"), coords={"layer": list(BLOCKS[1:3])})
    assert relative_bias(away).item() == pytest.approx(1.0)
    equal = xr.DataArray([[0.1, 0.05]], dims=("seed", "layer"), coords={"layer": list(BLOCKS[1:3])})
    assert relative_bias(equal).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_of_sweeps(name):
    study, nodes = swept(name, 1)
    figures = study.figures(xr.DataTree.from_dict(nodes))
    assert len({figure.key for figure in figures}) == len(figures)
    bias = figures[0].data
    assert bias.sizes["epochs"] == 2
    assert bias.sizes[figures[0].x] == len(study.variants)
    assert len(figures[1].row_names()) == len(study.variants)
    assert len({series.panel for series in figures[2].series()}) == len(study.variants)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_study_at_every_scale(name, scale):
    study = RECIPES[name](scale)
    assert study.name == f"layer_convergence_bias.{name}"
    assert study.scale == scale
    assert len({claim.id for claim in study.claims}) == len(study.claims) > 0
    assert len(study.seeds) >= 2
    for config in study.variants.values():
        assert config.optimizer.learning_rate > 0
        assert from_dict(to_dict(config)) == config
    if scale == "small":
        assert "Reduced" in study.reduction


def test_figures_of_one_network_share_its_runs():
    hashes = {
        RECIPES[name]("paper").variants["residual"].hash
        for name in ("fig1b", "fig3", "fig4", "fig6", "path_and_progress")
    }
    assert len(hashes) == 1
    shared = {
        next(iter(RECIPES[name]("paper").variants.values())).hash
        for name in ("fig8a", "fig12", "fig13", "fig14", "fig15")
    }
    assert shared == hashes


SAME = {"fig8a", "fig8e", *(f"fig{i}" for i in (12, 13, 14, 15, 16, 17, 18, 19))}
"""Recipes that are made like another one."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES.keys() - SAME))
def test_smoke_scale_runs_to_a_report(name, tmp_path):
    study = replace(RECIPES[name]("smoke"), seeds=(0, 1))
    found = reproduce(study, tmp_path, processes=1)
    assert len(found.verdicts) == len(study.claims)
    assert found.files[-1].stat().st_size > 10_000
