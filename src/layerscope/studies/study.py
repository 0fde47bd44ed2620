"""A study: several runs, variants times seeds, measured together and held against claims."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import xarray as xr

from layerscope.config import RunConfig
from layerscope.display import html
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure
from layerscope.probes import Probe, stored
from layerscope.probes.datasets import by_epoch
from layerscope.probes.expression import parse
from layerscope.runs.files import write_json
from layerscope.runs.results import write_netcdf
from layerscope.runs.store import Run
from layerscope.studies.claims import Claim, Verdict
from layerscope.studies.guards import PLANNED
from layerscope.studies.plan import Scale
from layerscope.studies.quantity import PerStep

FIDELITY = "fidelity"
"""Attribute of a study's data: in what its data sets differ from the originals, for captions."""


@dataclass(frozen=True)
class Study:
    """The runs, measurements, figures and claims behind one figure or table of a paper.

    Attributes:
        name: Full name of the recipe, e.g. ``"layer_convergence_bias.fig1a"``.
        title: What is asked, a few words.
        source: Paper and figure.
        summary: What is done and how to read it.
        reduction: What the scale changes of the paper's settings; every caption ends with it.
        scale: ``"paper"``, ``"small"`` or ``"smoke"``.
        variants: One configuration per variant; seeds replace the configuration's own.
        seeds: Seeds of every variant.
        probes: What is measured on every run.
        per_step: What was measured at every step of the runs whose configuration asks for it.
        claims: What is decided.
        figures: What is drawn of the data.
        changes: Settings of the runs that were replaced, e.g. ``"model.width=64"``.
        may_diverge: Variants without which the study still says something; one that has no run to
            measure is left out of the data.
        where: The variants on which a probe is measured, by its key; all where it is not named.
    """

    name: str
    title: str
    source: str
    summary: str
    reduction: str
    scale: Scale
    variants: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    probes: tuple[Probe, ...]
    claims: tuple[Claim, ...]
    figures: Callable[[xr.DataTree], list[Figure]]
    changes: tuple[str, ...] = ()
    may_diverge: frozenset[str] = frozenset()
    per_step: tuple[PerStep, ...] = ()
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise LayerscopeError(f"seeds are {list(self.seeds)}.", "Give each seed once.")

    def __repr__(self) -> str:
        lines = (f"  {name}: {value}" for name, value in self._facts())
        return "\n".join([f"Study {self.name} ({self.scale} scale): {self.title}", *lines])

    def _repr_html_(self) -> str:
        claims = [[claim.id, claim.text] for claim in self.claims]
        return html.block(
            html.heading(self.title, f"{self.name}, {self.scale} scale"),
            html.paragraph(self.description),
            html.table(["", ""], [[name, value] for name, value in self._facts()]),
            html.table(["claim", "statement"], claims),
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What it takes, for people."""
        yield "source", self.source
        yield "variants", ", ".join(self.variants)
        yield "runs", f"{len(self.runs())}, seeds {', '.join(map(str, self.seeds))}"
        yield "probes", ", ".join(probe.expression for probe in self.probes)
        yield "claims", ", ".join(claim.id for claim in self.claims) or "none"

    @property
    def folder(self) -> str:
        """Where results go below the folder for everything; changed settings have their own."""
        scale = ",".join([self.scale, *self.changes])
        return f"{self.name}/{re.sub(r'[^A-Za-z0-9._=,-]+', '_', scale)}"

    @property
    def description(self) -> str:
        """The summary, and what the scale and the user changed."""
        return f"{self.summary} {self._conditions}"

    @property
    def _conditions(self) -> str:
        changed = f" Changed here: {', '.join(self.changes)}." if self.changes else ""
        return self.reduction + changed

    def probes_on(self, variant: str) -> tuple[Probe, ...]:
        """The probes that are measured on a variant."""
        everywhere = frozenset(self.variants)
        return tuple(p for p in self.probes if variant in self.where.get(p.key, everywhere))

    def draw(self, data: xr.DataTree) -> list[Figure]:
        """The figures; below the paper's scale titles and captions say so, and what was changed.

        Captions also say where the data differ from the original sets (`FIDELITY`).
        """
        drawn = self.figures(data)
        end = "" if self.scale == "paper" else f" ({self.scale} scale)"
        conditions = [self._conditions] if end or self.changes else []
        conditions += [data.attrs[FIDELITY]] if data.attrs.get(FIDELITY) else []
        return [
            replace(
                figure,
                title=figure.title + end,
                caption=" ".join(part for part in (figure.caption, *conditions) if part),
            )
            for figure in drawn
        ]

    def runs(self) -> list[tuple[str, int, RunConfig]]:
        """(variant, seed, configuration) of every run."""
        return [
            (variant, seed, replace(config, seed=seed))
            for variant, config in self.variants.items()
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        path: Its folder.
        error: Why it has no measurements, where it has none.
        seconds: How long it took.
        reused: Whether it was there before.
        fidelity: In what its data differ from the original set.
    """

    path: Path
    error: str = ""
    seconds: float = 0.0
    reused: bool = False
    fidelity: str = ""


def gathered(study: Study, variant: str, run: Run) -> dict[str, xr.Dataset]:
    """What a study needs of one measured run of a variant, by key.

    Raises:
        LayerscopeError: The run was not measured, a probe failed while it trained, or a file is
            damaged.
    """
    found = {probe.key: stored(probe, run) for probe in study.probes_on(variant)}
    live = [parse(text) for text in run.config.live] if run.config else []
    for one in study.per_step:
        if one.probe in live:
            found[one.key] = _over_epochs(one, run)
    return found


def _over_epochs(one: PerStep, run: Run) -> xr.Dataset:
    """What was measured at every step of a whole run, as means over the steps of every epoch."""
    steps = run.results(one.probe.key).sel(step=slice(1, None))
    total = run.manifest["total_steps"]
    if steps.sizes["step"] != total:
        raise LayerscopeError(
            f"{run.path} has {one.probe.key} of {steps.sizes['step']} of {total} steps.",
            "See failed_probes in its run.json; delete the folder to train it again.",
        )
    return by_epoch(steps, run.steps_per_epoch or 1)


def collect(
    study: Study, measured: Mapping[tuple[str, int], Mapping[str, xr.Dataset]]
) -> xr.DataTree:
    """Stack the measurements of all runs over seeds.

    Args:
        study: The study.
        measured: For every (variant, seed) that was measured, the datasets by key, as `gathered`
            gives them.

    Returns:
        A tree with one node per variant and measurement, ``tree[variant][probe.key]``, whose
        variables have a leading dimension ``seed``. Variants may have different layers and steps.
        The attribute ``planned_seeds`` says how many seeds each was to have.

    Raises:
        LayerscopeError: A variant has no run that could be measured.
    """
    nodes: dict[str, xr.Dataset] = {}
    for variant in study.variants:
        seeds = [seed for seed in study.seeds if (variant, seed) in measured]
        if not seeds and variant in study.may_diverge:
            continue
        if not seeds:
            raise LayerscopeError(
                f"no run of variant {variant!r} of {study.name} could be measured.",
                "See the messages of its runs; lower the learning rate if they diverged.",
            )
        keys = dict.fromkeys(key for seed in seeds for key in measured[variant, seed])
        for key in keys:
            parts = [measured[variant, seed][key] for seed in seeds]
            index = xr.DataArray(seeds, dims="seed", name="seed")
            nodes[f"{variant}/{key}"] = xr.concat(
                parts, index, coords="minimal", compat="override", combine_attrs="drop_conflicts"
            )
    nodes["/"] = xr.Dataset(attrs={PLANNED: len(study.seeds)})
    return xr.DataTree.from_dict(nodes, name=study.name)


def decide(study: Study, data: xr.DataTree) -> list[tuple[Claim, Verdict]]:
    """Every claim with its verdict."""
    return [(claim, claim.decide(data)) for claim in study.claims]


def write(
    data: xr.DataTree, verdicts: Sequence[tuple[Claim, Verdict]], folder: Path
) -> tuple[Path, Path]:
    """Write ``study.nc`` (one group per variant and probe) and ``claims.json``."""
    write_netcdf(folder / "study.nc", data)
    rows = [claim.row(verdict) for claim, verdict in verdicts]
    write_json(folder / "claims.json", rows)
    return folder / "study.nc", folder / "claims.json"
