"""The claims decide rightly on made data whose answer is known; no test says that science holds."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree, verdicts

from layerscope.recipes.layer_convergence_bias import paper
from layerscope.reproduce import reproduce

RECIPES = paper.recipes
LAYERS = ["layer1", "layer2", "layer3", "output"]
RATES = {"falling": [0.012, 0.009, 0.006], "rising": [0.006, 0.009, 0.012], "flat": [0.01] * 3}
GRADIENTS = {"rising": [1.0, 2.0, 4.0], "falling": [4.0, 2.0, 1.0]}


def connected(narrow, wide, gradients, seeds=5):
    """Data of fig1a: rates on both domains, and gradients."""
    coords = {"layer": LAYERS, "seed": range(seeds), "epoch": ("step", [0.0, 50.0])}
    coords["step"] = [0, 10]
    gradient = noisy([[*GRADIENTS[gradients], 1.0]] * 2, "step", "layer", seeds=seeds)

    def made(variant):
        noise = np.random.default_rng(0).normal(0, 1e-4, (seeds, 1, 4))
        rates = [*RATES[narrow if variant == "narrow" else wide], 0.01]
        variables = {
            "rate": (("seed", "interval", "layer"), np.asarray(rates) + noise),
            "curve": noisy(np.ones((2, 4)), "step", "layer", seeds=seeds),
        }
        return {
            "convergence": xr.Dataset(variables, coords),
            "gradient_magnitude": xr.Dataset({"gradient_magnitude": gradient}, coords),
            "performance": performance(seeds=seeds),
        }

    return made


CASES = {
    "as reported": (("falling", "rising", "rising"), {"holds"}),
    "opposite": (("rising", "falling", "falling"), {"fails"}),
    "no difference": (("flat", "flat", "rising"), {"inconclusive"}),
    "one seed": (("falling", "rising", "rising", 1), {"inconclusive"}),
}


@pytest.mark.parametrize(("data", "outcomes"), CASES.values(), ids=CASES)
def test_claims_of_fig1a(data, outcomes):
    study = RECIPES["fig1a"]("paper")
    assert set(decided(study, connected(*data), seeds=data[3:] and 1).values()) == outcomes


def test_a_network_that_does_not_fit_decides_nothing():
    """A constant has the variance of the target as its loss."""
    made = connected("falling", "rising", "rising")
    study = RECIPES["fig1a"]("paper")
    found = verdicts(study, lambda v: {**made(v), "performance": performance(loss=0.6)})
    assert {verdict.outcome for verdict in found.values()} == {"inconclusive"}
    assert "narrow (loss 0.6, a constant has 0.5" in found["order"].note


def test_figures_of_fig1a():
    study = RECIPES["fig1a"]("small")
    curves, gradients, rates, table = study.draw(
        tree(study, connected("falling", "rising", "rising"))
    )
    assert [r.value for r in curves.references] == [150.0]
    assert len({series.panel for series in gradients.series()}) == 2
    assert list(rates.data["domain"].values) == ["[-2, 2]", "[-2π, 2π]"]
    assert table.row_names() == ("Layer 1", "Hidden layer 1", "Hidden layer 2")
    assert table.title == "C(0, 50), reported and measured (small scale)"


def test_paper_scale_has_the_papers_settings():
    config = RECIPES["fig1a"]("paper").variants["narrow"]
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


def convergence(rates, seeds=5, layers=BLOCKS):
    return xr.Dataset(
        {
            "rate": noisy([rates, rates], "interval", "layer", seeds=seeds),
            "curve": noisy(np.ones((2, len(rates))), "step", "layer", seeds=seeds),
        },
        coords={
            "layer": list(layers),
            "seed": range(seeds),
            "epoch": ("step", [0.0, 300.0]),
            "step": [0, 10],
        },
    )


def outcomes_of(name, **datasets):
    """Outcomes of a recipe with one network, from datasets by kind of probe."""
    return set(decided(RECIPES[name]("paper"), lambda variant: datasets).values())


def layered(first, last, **coords):
    """A value per layer, from the first block to the last in equal steps."""
    inner = np.linspace(first, last, 4)
    return [inner[0], *inner, inner[-1]]


@pytest.mark.parametrize(("first", "last", "outcome"), [(2.0, 1.0, "holds"), (1.0, 2.0, "fails")])
def test_claims_of_fig1b(first, last, outcome):
    gradient = noisy([layered(last, first)] * 2, "step", "layer")
    coords = {"layer": list(BLOCKS), "seed": range(5), "epoch": ("step", [0.0, 1.0])}
    found = outcomes_of(
        "fig1b",
        convergence=convergence(layered(first, last)),
        gradient_magnitude=xr.Dataset({"gradient_magnitude": gradient}, coords=coords),
    )
    assert found == {outcome}


@pytest.mark.parametrize(("first", "last", "outcome"), [(0.99, 0.95, "holds"), (0.5, 0.8, "fails")])
def test_claims_of_fig3(first, last, outcome):
    values = noisy([layered(first, last)] * 4, "step", "layer")
    coords = {"layer": list(BLOCKS), "seed": range(5), "epoch": ("step", [0.0, 50.0, 100.0, 200.0])}
    dataset = xr.Dataset({"data": values, "parameters": values}, coords=coords)
    assert outcomes_of("fig3", gradient_predictiveness=dataset) == {outcome}


@pytest.mark.parametrize(("first", "last", "outcome"), [(1.0, 3.0, "holds"), (3.0, 1.0, "fails")])
def test_claims_of_fig4_and_fig6(first, last, outcome):
    coords = {"layer": list(BLOCKS), "seed": range(5)}
    rising = noisy(layered(first, last), "layer")
    dataset = xr.Dataset({"increase": rising, "curvature": rising}, coords=coords)
    assert outcomes_of("fig4", loss_landscape=dataset) == {outcome}
    falling = noisy(layered(last, first), "layer")
    dataset = xr.Dataset({"range": falling, "frequency": rising}, coords=coords)
    assert outcomes_of("fig6", block_contributions=dataset.isel(layer=slice(1, 5))) == {outcome}


@pytest.mark.parametrize(("first", "last", "outcome"), [(1.0, 3.0, "holds"), (3.0, 1.0, "fails")])
def test_claims_of_path_and_progress(first, last, outcome):
    coords = {"layer": list(BLOCKS), "seed": range(5), "epoch": ("step", [0.0, 300.0])}
    path = noisy([layered(first, last)] * 2, "step", "layer")
    direct = noisy([layered(last, first)] * 2, "step", "layer")
    dataset = xr.Dataset({"path": path, "directness": direct}, coords=coords)
    found = outcomes_of(
        "path_and_progress",
        path_and_progress=dataset,
        convergence=convergence(layered(last, first)),
    )
    assert found == {outcome}


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


def blocks_of(study, variant):
    """The layers of a variant."""
    model = study.variants[variant].model
    if hasattr(model, "blocks"):
        return ["input", *(f"blocks.{i}" for i in range(model.blocks)), "output"]
    return [*(f"layer{i + 1}" for i in range(model.depth)), "output"]


def swept(name, sign, seeds=5, missing=()):
    """A sweep, and data in which the bias is as reported (1) or the opposite (-1)."""
    study = RECIPES[name]("paper")
    variants = list(study.variants)

    def made(variant):
        if variant in missing:
            return None
        i = variants.index(variant)
        first, last = rates_of(name, i, variant, sign)
        layers = blocks_of(study, variant)
        inner = [n for n in layers if n not in ("input", "output")]
        rates = dict(zip(inner, np.linspace(first, last, len(inner)), strict=True))
        if name == "fig20":
            rates = dict.fromkeys(inner, 0.03) | {inner[i]: 0.03 - sign * 0.01}
        values = [rates.get(layer, 0.03) for layer in layers]
        return {
            "convergence": convergence(values, seeds, layers),
            "performance": performance(loss=0.01 * 2.0 ** (-sign * i), seeds=seeds),
        }

    return study, made


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
@pytest.mark.parametrize("name", SWEEPS)
def test_claims_of_sweeps(name, sign, outcome):
    assert set(decided(*swept(name, sign)).values()) == {outcome}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_says_which_setting_diverged(name):
    variants = list(RECIPES[name]("paper").variants)
    study, made = swept(name, 1, missing=variants[-1:])
    assert variants[-1] in study.may_diverge
    noted = [v for v in verdicts(study, made).values() if "5 of 5 runs" in v.note]
    assert noted
    assert {v.outcome for v in noted} == {"inconclusive"}
    assert len(study.figures(tree(study, made))[1].row_names()) == len(variants) - 1


def test_a_sweep_says_how_many_runs_diverged():
    study, made = swept("fig13", 1)

    def some(left):
        def found(variant):
            every = made(variant)
            if variant != "lr0.1":
                return every
            return {kind: data.isel(seed=slice(left)) for kind, data in every.items()}

        return verdicts(study, found).values()

    assert all("2 of 5 runs of lr0.1 diverged" in v.note for v in some(3))
    assert {v.outcome for v in some(3)} == {"holds"}
    assert {v.outcome for v in some(2)} == {"inconclusive"}


def test_fewer_seeds_are_no_runs_that_diverged():
    study, made = swept("fig13", 1, seeds=2)
    found = verdicts(study, made, seeds=2).values()
    assert not any("diverged" in v.note for v in found)
    assert {v.outcome for v in found} == {"holds"}


def test_domains_are_compared_on_the_seeds_that_both_have():
    study, made = swept("domain", 1)

    def one_less(variant):
        found = made(variant)
        if variant == "half1":
            found["convergence"] = found["convergence"].isel(seed=slice(1, None))
        return found

    width = verdicts(study, one_less)["width"]
    assert (width.outcome, width.n_seeds) == ("holds", 4)


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_of_sweeps(name):
    study, made = swept(name, 1)
    figures = study.figures(tree(study, made))
    assert len({figure.key for figure in figures}) == len(figures)
    bias = figures[0].data
    assert bias.sizes["epochs"] == 2
    assert bias.sizes[figures[0].x] == len(study.variants)
    assert len(figures[1].row_names()) == len(study.variants)
    assert len({series.panel for series in figures[2].series()}) == len(study.variants)


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
    study = RECIPES[name]("smoke", seeds=(0, 1) if name == "fig1b" else (0,))
    found = reproduce(study, tmp_path, processes=1)
    assert len(found.verdicts) == len(study.claims)
    assert found.files[-1].stat().st_size > 10_000
