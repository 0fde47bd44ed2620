import pytest
import xarray as xr

from layerscope.config import Digits, RunConfig
from layerscope.figures.figure import Bars
from layerscope.probes import Convergence, GradientMagnitude, Performance
from layerscope.studies.paper import Paper, claim
from layerscope.studies.plan import Plan
from layerscope.studies.plots import bars, test_errors

test_errors.__test__ = False  # pytest takes it for a test
PROBE = Convergence(intervals=((0, 1),))


def made(scale="small", **options):
    """A recipe of a made-up paper, and its study."""
    paper = Paper("made", "A paper")
    runs = {name: (name, RunConfig(data=Digits(), epochs=n)) for name, n in (("a", 2), ("b", 3))}

    def plan(scale):
        return Plan(runs, (0, 1), lambda runs: f"Reduced to {runs.first.epochs}.", **options)

    @paper.recipe("Fig. 1", plan, "What?", lambda runs: f"{len(runs)} networks.")
    def fig1(runs):
        """One layer converges faster.

        More about it.
        """
        rate = runs["a"].of(PROBE, "rate").isel(interval=0)
        yield GradientMagnitude()
        yield claim("faster", "It is. [Section 1]", rate["x"] - rate["y"], "C")
        yield claim("more", "It is. [beyond the paper: why]", -rate["y"], "-C")
        yield bars(rate, "rates", "Rates", "C.")

    return fig1, fig1(scale)


def test_a_study_is_made_of_what_a_recipe_yields():
    recipe, study = made()
    assert (recipe.name, recipe.__doc__[:10]) == ("made.fig1", "One layer ")
    assert (study.title, study.summary, study.source) == ("What?", "2 networks.", "A paper Fig. 1")
    assert [probe.key for probe in study.probes] == [
        "gradient_magnitude",
        PROBE.key,
        "performance",
    ]
    sources = [one.source for one in study.claims]
    assert sources == ["A paper Section 1", "beyond the paper: why"]
    assert study.claims[0].variants == ("a",)
    assert study.may_diverge == frozenset()
    assert made(may_diverge=True)[1].may_diverge == {"a", "b"}


def data(error=10.0):
    rate = xr.Dataset(
        {"rate": (("seed", "interval", "layer"), [[[3.0, 1.0]], [[3.1, 1.0]]])},
        {"seed": [0, 1], "layer": ["x", "y"]},
    )
    tested = xr.Dataset({"error": (("seed", "step"), [[error], [error]])}, {"seed": [0, 1]})
    nodes = {"/": xr.Dataset(attrs={"planned_seeds": 2})}
    for variant in ("a", "b"):
        nodes |= {f"{variant}/{PROBE.key}": rate, f"{variant}/performance": tested}
    return xr.DataTree.from_dict(nodes)


def test_claims_are_guarded_and_figures_say_the_scale():
    _, study = made(shows_errors=True)
    assert study.claims[0].decide(data()).outcome == "holds"
    assert study.claims[0].decide(data(89.0)).outcome == "inconclusive"
    rates, errors = study.draw(data())
    assert (rates.title, rates.caption) == ("Rates (small scale)", "C. Reduced to 2.")
    assert isinstance(errors, Bars)
    assert errors.key == "test-error"
    assert made("paper")[1].draw(data())[0].title == "Rates"


def test_what_is_replaced_is_said():
    recipe, _ = made()
    study = recipe("paper", {"epochs": 9, "model.width": 8})
    assert study.changes == ("epochs=9", "model.width=8")
    assert study.folder == "made.fig1/paper,epochs=9,model.width=8"
    assert (
        study.draw(data())[0].caption == "C. Reduced to 9. Changed here: epochs=9, model.width=8."
    )
    assert {config.model.width for config in study.variants.values()} == {8}


def test_a_performance_that_is_measured_anyway_is_the_one_that_guards():
    paper = Paper("made", "A paper")
    plan = Plan({"a": ("a", RunConfig())}, (0, 1), lambda runs: "")
    probe = Performance(checkpoints="all")

    @paper.recipe("Fig. 2", lambda scale: plan, "What?", "So.")
    def fig2(runs):
        """It."""
        error = runs["a"].of(probe, "error").at_end()
        yield claim("low", "It is low. [Fig. 2]", -error, "error", -50.0)

    assert [p.key for p in fig2("small").probes] == [probe.key]


def test_a_claim_names_its_place():
    with pytest.raises(ValueError, match="'a' does not end with its place"):
        claim("a", "It is.", made()[1].claims[0])
