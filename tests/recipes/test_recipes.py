"""What holds for the recipes of every paper, at every scale and with every setting replaced."""

import inspect

import pytest

from layerscope import catalogue
from layerscope.config import from_dict, to_dict
from layerscope.errors import LayerscopeError
from layerscope.probes import Convergence
from layerscope.recipes import find, recipes
from layerscope.recipes.layer_convergence_bias import fig1a, fig2
from layerscope.studies.plan import SCALES

RECIPES = recipes()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_study_at_every_scale(name, scale):
    study = RECIPES[name](scale)
    assert (study.name, study.scale) == (name, scale)
    assert len({claim.id for claim in study.claims}) == len(study.claims) > 0
    assert all(set(claim.variants) <= set(study.variants) for claim in study.claims)
    assert len({probe.key for probe in study.probes}) == len(study.probes)
    assert len(study.seeds) >= 2
    assert study.reduction in study.description
    for config in study.variants.values():
        assert from_dict(to_dict(config)) == config
    word = {"paper": "paper's settings", "small": "Reduced", "smoke": "A smoke test"}[scale]
    assert word in study.reduction


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_what_follows_from_the_length_is_what_was_planned(name, scale):
    """A setting that is replaced by itself replaces nothing."""
    plan = RECIPES[name].plan(scale)
    for variant, (_, config) in plan.variants.items():
        assert plan.timed(config) == config, variant


@pytest.mark.parametrize("epochs", [3, 8, 37])
@pytest.mark.parametrize("name", RECIPES)
def test_intervals_and_milestones_are_those_of_the_run_that_is_made(name, epochs):
    study = RECIPES[name]("small", {"epochs": epochs})
    runs = RECIPES[name].plan("small").resolved("small", {"epochs": epochs})
    for variant, config in study.variants.items():
        assert config.epochs == epochs
        assert all(0 < milestone <= epochs for milestone in config.milestones)
        for probe in study.probes:
            if isinstance(probe, Convergence):
                ends = {float(t) for interval in probe.intervals for t in interval}
                assert ends <= {0.0, *map(float, runs[variant].kept)}
    assert study.changes == (f"epochs={epochs}",)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_is_too_short_is_an_error_before_it_is_trained(name):
    """Of one epoch most figures can be made; those that compare epochs say that they cannot."""
    if name.startswith("layer_") and name.endswith((".fig2", ".fig10", ".fig17")):
        with pytest.raises(LayerscopeError, match=r"interval \(1, 1\) is empty"):
            RECIPES[name]("small", {"epochs": 1})
        return
    study = RECIPES[name]("small", {"epochs": 1})
    assert all(m == 1 for c in study.variants.values() for m in c.milestones)


def test_what_is_given_is_not_derived():
    changes = {"epochs": 8, "milestones": (3,), "checkpoints": "epochs(2)"}
    config = find("layer_convergence_bias.fig1b")("small", changes).variants["residual"]
    assert (config.milestones, config.checkpoints) == ((3,), "epochs(2)")


def test_texts_are_those_of_the_run_that_is_made():
    for epochs, until, drop in ((8, "2 epochs", 4), (3, "epoch", 1)):
        study = find("layer_convergence_bias.fig1b")("small", {"epochs": epochs})
        assert study.claims[0].text.endswith(f"over the first {until}.")
        assert study.variants["residual"].milestones == (drop,)
        assert f"{epochs} epochs instead of 300" in study.reduction
    texts = [claim.text for claim in fig2("small", {"epochs": 6}).claims]
    assert texts[0].endswith("over epochs 0 to 2.")
    assert "over epochs 2 to 3, when the learning rate has fallen" in texts[3]
    assert "8 epochs on 256 examples" in fig1a("smoke", {"epochs": 8}).reduction


def test_other_seeds():
    study = find("layer_convergence_bias.fig2")("small", seeds=(7, 8))
    assert study.seeds == (7, 8)
    assert "2 seeds" in study.reduction


def test_a_setting_that_no_run_has():
    with pytest.raises(LayerscopeError, match="has the setting 'wdth'"):
        fig1a("small", {"model.wdth": 3})


def test_lists_say_what_importing_says():
    """Names, order and headlines are read from sources there."""
    listed = {
        f"{paper}.{entry.name}": entry.headline
        for paper in catalogue.papers()
        for entry in catalogue.recipes(f"recipes/{paper}").values()
    }
    assert list(listed) == list(RECIPES)
    for name, headline in listed.items():
        assert headline
        assert inspect.cleandoc(RECIPES[name].__doc__).partition("\n")[0] == headline


def test_names_that_are_no_recipes():
    with pytest.raises(LayerscopeError, match=r"layer_convergence_bias\.fig1a"):
        find("layer_convergence_bias.fig1")
    with pytest.raises(ImportError, match="fig99"):
        from layerscope.recipes.layer_convergence_bias import fig99  # noqa: F401


def test_figures_come_before_tables_and_by_number():
    names = [name.partition(".")[2] for name in RECIPES if name.startswith("all_")]
    assert names[:4] == ["fig1", "fig2", "fig2b", "fig3"]
    assert names[-4:] == ["table1", "table2", "table3", "bound"]
