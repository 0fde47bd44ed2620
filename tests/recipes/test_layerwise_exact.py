"""Figs. 1 and A1 to A4: what they claim follows from the numbers."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree, verdicts

from layerscope.recipes import find

TIMES = 4
EIGHT = [*(f"layer{i}" for i in range(1, 8)), "output"]
EPOCHS = {"step": range(TIMES), "epoch": ("step", np.arange(TIMES) * 10.0)}
EXACT, EMPIRICAL = ("kappa_50", "kappa_80"), ("kappa_5", "kappa_10")
VARIABLES = ("largest", *EXACT, *EMPIRICAL)


def recipe(name):
    return find(f"layerwise_conditioning.{name}")


def rows(names, **variables):
    """Values over layers, the same at every time, or over times and layers."""
    shape = (TIMES, len(names))
    made = {k: noisy(np.broadcast_to(v, shape), "step", "layer") for k, v in variables.items()}
    depth = {"depth": ("layer", np.arange(len(names)))}
    return xr.Dataset(made, {"seed": range(5), "layer": names, **EPOCHS, **depth})


def measured(study, plain, normal, blocks_plain=None, blocks_normal=None, names=None):
    """Measurements of a study: largest eigenvalue and all condition numbers of both networks.

    Args:
        study: The study.
        plain: Largest eigenvalue, and condition number, of the full matrix without normalisation.
        normal: The same with normalisation.
        blocks_plain: Of the blocks, where others, over layers or times and layers.
        blocks_normal: The same with normalisation, whose scales have no value.
        names: The layers.
    """
    names = names or EIGHT

    def made(variant):
        largest, kappa = plain if variant == "plain" else normal
        blocks = blocks_plain if variant == "plain" else blocks_normal
        block_largest, block_kappa = (largest, kappa) if blocks is None else blocks
        own = names if variant == "plain" else [*names, "norm1"]
        gap = (0, 0 if variant == "plain" else 1)

        def padded(values):
            wide = np.broadcast_to(np.asarray(values, float), (TIMES, len(names)))
            return np.pad(wide, ((0, 0), gap), constant_values=np.nan)

        found = {"performance": performance(89.0 if variant == "plain" else 5.0)}
        for probe in study.probes:
            if not probe.key.startswith("fisher_spectrum"):
                continue
            if probe.whole:
                values = dict.fromkeys(VARIABLES, kappa) | {"largest": largest}
                found[probe.key] = rows(["network"], **values)
            else:
                values = dict.fromkeys(VARIABLES, padded(block_kappa))
                found[probe.key] = rows(own, **{**values, "largest": padded(block_largest)})
        return found

    return made


BETTER, WORSE = (10.0, 1e2), (1e-5, 1e6)


@pytest.mark.parametrize("name", ["fig1", "figA1", "figA2"])
def test_networks_that_normalisation_improves_in_every_matrix(name):
    study = recipe(name)("small")
    assert set(decided(study, measured(study, WORSE, BETTER)).values()) == {"holds"}
    infinite = measured(study, (1e-5, np.inf), BETTER)
    assert set(decided(study, infinite).values()) == {"holds"}


@pytest.mark.parametrize("name", ["fig1", "figA1", "figA2"])
def test_networks_that_normalisation_makes_worse_are_ranked_alike_all_the_same(name):
    study = recipe(name)("small")
    found = decided(study, measured(study, BETTER, WORSE))
    alike = {id for id in found if id.endswith("-agree")}
    assert {found[id] for id in alike} == {"holds"}
    assert {found[id] for id in found.keys() - alike} == {"fails"}


@pytest.mark.parametrize("name", ["figA3", "figA4"])
def test_four_layers_have_both_matrices(name):
    study = recipe(name)("small")
    names = [*(f"layer{i}" for i in range(1, 4)), "output"]
    found = decided(study, measured(study, WORSE, BETTER, names=names))
    assert set(found.values()) == {"holds"}
    kinds = {id.split("-")[0] for id in found}
    assert (kinds, len(found)) == ({"exact", "empirical"}, 18)


def test_blocks_that_rank_the_other_way_round():
    study = recipe("figA1")("small")
    found = decided(study, measured(study, WORSE, BETTER, BETTER, WORSE))
    assert {v for k, v in found.items() if k.endswith("-full")} == {"holds"}
    assert {v for k, v in found.items() if not k.endswith("-full")} == {"fails"}


def test_one_layer_against_the_others():
    """A claim on every layer fails by it; of two layers it is not one, and most agree."""
    kappa = np.full(8, 1e2)
    kappa[0] = 1e9
    for name, blocks in (("fig1", "holds"), ("figA1", "fails")):
        study = recipe(name)("small")
        found = verdicts(study, measured(study, WORSE, BETTER, WORSE, (10.0, kappa)))
        assert found["exact-kappa-50-blocks"].outcome == blocks
        assert found["exact-kappa-50-agree"].outcome == "holds"
        assert found["exact-kappa-50-agree"].value == pytest.approx(7 / 8)
    assert "layer1 fails" in found["exact-kappa-50-blocks"].note


def test_agreement_counts_layers_and_moments():
    """Half of the layers at all moments, the other half at one of four."""
    kappa = np.full((TIMES, 8), 1e2)
    kappa[1:, :4] = 1e9
    study = recipe("figA1")("small")
    found = verdicts(study, measured(study, WORSE, BETTER, WORSE, (10.0, kappa)))
    assert found["exact-kappa-80-agree"].value == pytest.approx(0.5 + 0.5 / 4)


def test_where_neither_is_better_nothing_is_ranked():
    """Condition numbers of the full matrix that are infinite with and without normalisation."""
    study = recipe("fig1")("small")
    both = measured(study, (1e-5, np.inf), (10.0, np.inf), WORSE, BETTER)
    found = verdicts(study, both)
    assert found["exact-kappa-50-full"].outcome == "inconclusive"
    assert found["exact-kappa-50-blocks"].outcome == "holds"
    assert found["exact-kappa-50-agree"].value == 0


def test_a_good_start_is_one_moment_of_four():
    """Condition numbers of layer 1 that are far lower at the start, and higher ever after."""
    kappa = np.full((TIMES, 8), 1e4)
    kappa[:, 0] = [1e1, 1e7, 1e7, 1e7]
    study = recipe("figA1")("small")
    found = verdicts(study, measured(study, WORSE, BETTER, (1e-5, 1e5), (10.0, kappa)))
    assert found["exact-kappa-50-blocks"].outcome == "fails"
    assert found["exact-kappa-50-blocks"].statistic.endswith("layer1")
    assert found["exact-kappa-50-blocks"].value == pytest.approx(-0.5, abs=0.05)


def test_larger_is_more_than_tenfold_for_the_full_matrix():
    study = recipe("fig1")("small")
    found = decided(study, measured(study, (2.0, 1e6), BETTER))
    assert found["exact-largest-full"] == "fails"
    assert found["exact-largest-blocks"] == "holds"


def test_figures_have_a_panel_for_each_matrix_and_a_line_for_each_network():
    for name, expected in (("fig1", ["full", "layer3", "layer6"]), ("figA1", ["full", *EIGHT])):
        study = recipe(name)("small")
        data = tree(study, measured(study, (1e-5, np.inf), BETTER))
        figures = {figure.key: figure for figure in study.draw(data)}
        assert {"exact-largest", "exact-kappa-50", "exact-kappa-80"} <= figures.keys()
        largest = figures["exact-largest"].data
        assert largest["matrix"].values.tolist() == expected
        assert largest["network"].values.tolist() == ["Plain", "BN"]
        np.testing.assert_allclose(largest.sel(network="BN"), 10.0, rtol=1e-3)
        kappa = figures["exact-kappa-50"].data
        assert kappa.sel(network="Plain").isnull().all()
        np.testing.assert_allclose(kappa.sel(network="BN"), 1e2, rtol=1e-3)


def test_what_is_infinite_for_a_seed_is_not_drawn():
    study = recipe("fig1")("small")
    data = tree(study, measured(study, WORSE, BETTER))
    whole = next(key for key in data["plain"].children if "whole" in key)
    data[f"plain/{whole}"]["kappa_50"][1, 2, 0] = np.inf
    figures = {figure.key: figure for figure in study.draw(data)}
    drawn = figures["exact-kappa-50"].data.sel(network="Plain", matrix="full")
    assert drawn.notnull().all("seed").values.tolist() == [True, True, False, True]
    assert drawn.isnull().isel(epoch=2).all()


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_condition_numbers_are_those_that_rank_allows(scale):
    """Of N examples of 10 classes at most 9 N eigenvalues are not zero, of M at most N."""
    for name, layers, width in (("fig1", 8, 24), ("figA3", 4, 24), ("figA4", 4, 36)):
        study = recipe(name)(scale)
        width, pixels = (6, 64) if scale == "smoke" else (width, 49)
        size = pixels * width + (layers - 2) * width**2 + 10 * width
        for probe in study.probes:
            if probe.key.startswith("fisher_spectrum"):
                rank = probe.samples * (9 if probe.fisher == "exact" else 1)
                assert max(probe.shares) * size <= rank
                assert all(probe.samples == c.probe_batch for c in study.variants.values())


def test_checkpoints_are_at_thirds_of_the_run_that_is_made():
    config = recipe("fig1")("small", {"epochs": 7}).variants["bn"]
    assert config.checkpoints == "epochs(3)"
