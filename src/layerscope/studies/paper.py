"""A paper and its recipes: what each figure or table asks, shows and claims, said once.

A recipe is a function of the runs that are made; what it shares with all others, its name, source,
scale, seeds, guards and captions, is added here::

    @paper.recipe("Fig. 2", networks, "Do shallow layers converge faster?", "How much ...")
    def fig2(runs: Runs) -> Items:
        \"\"\"ResNet-50 and VGG-19: shallow layers converge faster until the rate falls.\"\"\"
        C = runs["resnet50"].of(probe, "rate")
        yield claim("faster", "Stage 1 converges faster. [Section 3.2]", C["stage1"] - C["stage4"])
        yield lines(...)

Called with a scale, it gives the study.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any

import xarray as xr

from layerscope.figures.figure import Figure
from layerscope.probes import Performance, Probe
from layerscope.studies import guards
from layerscope.studies.claims import Claim
from layerscope.studies.comparisons import Comparison, exceeds
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import Plot, test_errors
from layerscope.studies.quantity import PerStep, Quantity, probes_of
from layerscope.studies.study import Study


@dataclass(frozen=True)
class Statement:
    """What a paper says, and the comparison that decides it; see `claim`."""

    id: str
    text: str
    source: str
    comparison: Comparison
    regardless: bool = False


def claim(
    id: str,
    text: str,
    effect: Quantity | Comparison,
    statistic: str = "",
    threshold: float = 0.0,
    regardless: bool = False,
) -> Statement:
    """A falsifiable statement.

    Args:
        id: Short name, unique within a study.
        text: The statement, with its place in the paper in brackets at the end; what is beyond the
            paper begins there with ``beyond the paper``.
        effect: A number (seed), whose mean over seeds has to exceed the threshold; or a comparison.
        statistic: What the number is.
        threshold: What it has to exceed.
        regardless: It is about networks before training, or about such as do not learn, and decided
            whatever they learn.

    Raises:
        ValueError: The text does not name its place.
    """
    said = re.fullmatch(r"(.+) \[(.+)\]", text)
    if said is None:
        raise ValueError(f"claim {id!r} does not end with its place in brackets: {text}")
    if isinstance(effect, Quantity):
        effect = exceeds(effect, statistic, threshold)
    return Statement(id, said[1], said[2], effect, regardless)


@dataclass(frozen=True)
class Only:
    """A probe that is measured on some variants only, see `only`."""

    probe: Probe
    variants: tuple[str, ...]


def only(probe: Probe, *runs: Variant) -> Only:
    """Say that a probe is measured on these variants and no others, where it costs much.

    What claims and plots use of it has to be of these.
    """
    return Only(probe, tuple(run.name for run in runs))


Items = Iterator[Statement | Plot | Probe | Only]
"""What a recipe yields, in order: claims, plots, probes to measure beside those of both, and where
some are measured."""
Build = Callable[[Runs], Items]
Words = str | Callable[[Runs], str]


class Recipe:
    """A figure or table of a paper; called with a scale, it gives the study.

    Attributes:
        name: Full name, ``<paper>.<figure>``.
        source: Paper and figure.
        plan: From a scale to the runs.
    """

    def __init__(
        self,
        paper: Paper,
        build: Build,
        source: str,
        plan: Callable[[Scale], Plan],
        question: str,
        summary: Words,
    ) -> None:
        update_wrapper(self, build)
        self.name = f"{paper.name}.{build.__name__}"  # pyright: ignore[reportAttributeAccessIssue]
        self.source = source
        self.plan = plan
        self._paper = paper
        self._build = build
        self._question = question
        self._summary = summary

    def __call__(
        self,
        scale: Scale,
        changes: Mapping[str, Any] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Study:
        """The study at a scale.

        Args:
            scale: ``"paper"``, ``"small"`` (minutes on two cores) or ``"smoke"`` (seconds).
            changes: Other values for settings of all runs, by dotted name, e.g.
                ``{"epochs": 20, "model.width": 64}``; intervals, captions and marks follow.
            seeds: Seeds in place of the recipe's own.

        Raises:
            LayerscopeError: A run has no such setting.
        """
        plan = self.plan(scale)
        runs = plan.resolved(scale, changes, seeds)
        items = list(self._build(runs))
        claims = [item for item in items if isinstance(item, Statement)]
        plots = [item for item in items if isinstance(item, Plot)]
        probes = [item for item in items if isinstance(item, Probe)]
        measured = probes_of([claim.comparison for claim in claims], plots)
        tests = (p for p in measured if isinstance(p, Performance) and p.on == "test")
        test = next(tests, Performance())
        if plan.shows_errors:
            plots.append(test_errors(runs, test))
        by_key = {one.key: one for one in (*probes, *measured, test)}

        def figures(data: xr.DataTree) -> list[Figure]:
            return [figure for plot in plots for figure in plot.draw(data)]

        words = self._summary
        return Study(
            name=self.name,
            title=self._question,
            source=self.source,
            summary=words if isinstance(words, str) else words(runs),
            reduction=plan.reduction(runs),
            scale=scale,
            variants=runs.configs,
            seeds=runs.seeds,
            probes=tuple(one for one in by_key.values() if isinstance(one, Probe)),
            per_step=tuple(one for one in by_key.values() if isinstance(one, PerStep)),
            claims=tuple(self._paper.decided(claim, runs, test) for claim in claims),
            figures=figures,
            changes=tuple(f"{path}={value}" for path, value in runs.changes.items()),
            may_diverge=frozenset(runs) if plan.may_diverge else frozenset(),
            where={i.probe.key: frozenset(i.variants) for i in items if isinstance(i, Only)},
        )


@dataclass(frozen=True)
class Paper:
    """A paper whose figures and tables can be made again.

    Attributes:
        name: Name of its package of recipes.
        title: As sources cite it.
        recipes: Its recipes by the names of their functions.
    """

    name: str
    title: str
    recipes: dict[str, Recipe] = field(default_factory=dict)

    def recipe(
        self, source: str, plan: Callable[[Scale], Plan], question: str, summary: Words
    ) -> Callable[[Build], Recipe]:
        """Make a function of runs the recipe of a figure or table.

        Args:
            source: Which one, e.g. ``"Fig. 2"``; ``"beyond Fig. 2"`` for what the paper lacks.
            plan: From a scale to the runs.
            question: What is asked, a few words.
            summary: What is done and how to read it; may depend on the runs that are made.
        """

        def made(build: Build) -> Recipe:
            recipe = Recipe(self, build, self.cited(source), plan, question, summary)
            self.recipes[recipe.name.partition(".")[2]] = recipe
            return recipe

        return made

    def load(self, package: str, path: Iterable[str]) -> None:
        """Import the modules of a package, so that their recipes are known."""
        for module in pkgutil.iter_modules(path):
            importlib.import_module(f"{package}.{module.name}")

    def exported(self, name: str) -> Recipe:
        """A recipe, as an attribute of the paper's package.

        Raises:
            AttributeError: There is none of this name.
        """
        if name not in self.recipes:
            raise AttributeError(f"{self.name} has no recipe {name!r}")
        return self.recipes[name]

    def cited(self, place: str) -> str:
        """A place in the paper, with its title."""
        if place.startswith("beyond the paper"):
            return place
        if place.startswith("beyond "):
            return f"beyond {self.title} {place.removeprefix('beyond ')}"
        return f"{self.title} {place}"

    def decided(self, one: Statement, runs: Runs, test: Performance) -> Claim:
        """A claim, which is not decided on runs that diverged or have hardly learnt."""
        variants = one.comparison.variants
        decide = one.comparison.decide
        if not one.regardless:
            learnt = {name: runs[name].data for name in variants}
            decide = guards.if_learnt(learnt, test, decide)
        decide = guards.when_trained(variants, decide)
        return Claim(one.id, one.text, self.cited(one.source), decide, variants)
