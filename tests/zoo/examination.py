"""What all probes say of one specimen, live and from checkpoints, and what they leave of it."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tests.training_loop import Outcome, train
from tests.zoo import by_hand
from tests.zoo.inventory import changes, inventory
from tests.zoo.specimen import Specimen
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.probes import PROBES as EVERY
from layerscope.probes import (
    AdversarialAccuracy,
    BlockContributions,
    Convergence,
    GradientPredictiveness,
    LossLandscape,
    MomentProbe,
    Probe,
    Reinitialisation,
    ResponseFrequency,
    measure,
)
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every

STEPS = 3
QUICK = (
    Convergence(time="step"),
    GradientPredictiveness(batches=2, learning_rate=0.1),
    LossLandscape(points=3, draws=2),
    ResponseFrequency(examples=4),
    BlockContributions(points=16),
    Reinitialisation(draws=1),
    AdversarialAccuracy(active=(0,), repeats=1, steps=1, n_examples=8),
)
PROBES: Mapping[str, Probe] = {
    name: next((quick for quick in QUICK if type(quick) is probe), probe())
    for name, probe in EVERY.items()
}
"""Every probe, where it has some with settings that are quick."""


@dataclass
class Examination:
    """Facts about one specimen.

    Attributes:
        specimen: The specimen.
        recorded: What training with a recorder left; None where recording was refused.
        plain: What the same training left without one.
        refusal: Message with which recording was refused.
        run: The run.
        model: The model that was recorded and then measured.
        read: Live results of moment probes.
        live: For each moment probe ``"value"``, ``"missing: ..."`` or ``"refused: ..."``.
        offline: The same for every probe, from checkpoints.
        raw: What was raised that is no `LayerscopeError`, by probe.
        results: What was measured from checkpoints.
        changed: Paths of what a measurement changed in the model, by probe.
        gradients: Gradient magnitude of every layer at the end, by hand.
        resets: Loss and error with a layer reset to checkpoint 0, by hand, for some layers.
        continued: What one more step of training left, after measuring and without.
        copies: What of ``deepcopy`` and ``torch.save`` worked on the model that was only trained,
            but not on the one that was measured.
    """

    specimen: Specimen
    plain: Outcome | None = None
    recorded: Outcome | None = None
    refusal: str = ""
    run: Any = None
    model: Any = None
    read: dict[str, xr.Dataset] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    offline: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)
    results: dict[str, xr.Dataset] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)
    gradients: list[float] = field(default_factory=list)
    resets: dict[str, tuple[float, float]] = field(default_factory=dict)
    continued: tuple[Outcome, Outcome] | None = None
    copies: list[str] = field(default_factory=list)


def examine(specimen: Specimen, folder: Path) -> Examination:
    """Train with and without a recorder, measure everything, and look at what is left."""
    found = Examination(specimen)
    if specimen.unrecordable:
        _refuse(found, folder / "run")
        return found
    bystander = specimen.model()
    found.plain = _train(specimen, bystander)
    found.model = specimen.model()
    probes = {k: p for k, p in _probes(specimen).items() if isinstance(p, MomentProbe)}
    _record(found, folder / "run", probes)
    _read_live(found, probes)
    for name, probe in _probes(specimen).items():
        _measure(found, name, probe)
    _compute_by_hand(found)
    found.copies = [k for k in _copies(bystander) if k not in _copies(found.model)]
    found.continued = _train(specimen, found.model, 1), _train(specimen, bystander, 1)
    return found


def _probes(specimen: Specimen) -> dict[str, Probe]:
    return {**PROBES, **specimen.probes}


def _train(specimen: Specimen, model: nn.Module, steps: int = STEPS, **recorder: Any) -> Outcome:
    if "compile" in specimen.name:  # what was compiled for another model of the same code
        torch.compiler.reset()
    torch.manual_seed(7)
    return train(specimen, steps, model=model, wrap=specimen.wrap, **recorder)


def _options(specimen: Specimen, model: nn.Module, path: Path) -> dict[str, Any]:
    found = {"path": path, "task": specimen.task, "batch": specimen.batch(0), "steps_per_epoch": 2}
    found |= {"measure": every(STEPS), "checkpoints": every(STEPS)}
    if specimen.unit != "module":
        found["layers"] = specimen.map(model, unit=specimen.unit)
    return found


def _refuse(found: Examination, path: Path) -> None:
    model = found.specimen.model()
    try:
        with Recorder(model, **_options(found.specimen, model, path)):
            pass
    except LayerscopeError as error:
        found.refusal = str(error)
    except Exception as error:  # what must not happen is what this looks for
        found.raw["recording"] = _first(f"RAW {type(error).__name__}: {error}")


def _record(found: Examination, path: Path, probes: Mapping[str, MomentProbe]) -> None:
    options = _options(found.specimen, found.model, path)
    found.recorded = _train(found.specimen, found.model, probes=list(probes.values()), **options)
    found.run = Run.open(path)


def _read_live(found: Examination, probes: Mapping[str, Probe]) -> None:
    failed = found.run.manifest["notes"].get("failed_probes", {})
    for name, probe in probes.items():
        if probe.key in failed:
            error = failed[probe.key]["error"]
            found.live[name] = _first(f"refused: {error}")
            if re.match(r"\w+(Error|Exception|Warning): ", error):  # no message of the library's
                found.raw[f"{name}, live"] = _first(error)
        else:
            found.read[name] = found.run.results(probe.key)
            found.live[name] = cell(found.read[name])


def _measure(found: Examination, name: str, probe: Probe) -> None:
    specimen = found.specimen
    before = inventory(found.model)
    data = [specimen.batch(1), specimen.batch(2)]
    try:
        dataset = measure(
            probe,
            found.run,
            model=specimen.wrap(found.model),
            task=specimen.task,
            batch=specimen.batch(0),
            data=data,
            training_data=data,
            factory=specimen.build if specimen.factory else None,
        )
        found.results[name] = dataset
        found.offline[name] = cell(dataset)
    except LayerscopeError as error:
        found.offline[name] = _first(f"refused: {error}")
    except Exception as error:  # what must not happen is what this looks for
        found.offline[name] = found.raw[name] = _first(f"RAW {type(error).__name__}: {error}")
    if different := changes(before, inventory(found.model)):
        found.changed[name] = different


def _compute_by_hand(found: Examination) -> None:
    specimen, model, run = found.specimen, found.model, found.run
    found.gradients = by_hand.gradient_magnitudes(specimen, model, run, run.steps[-1])
    data = [specimen.batch(1), specimen.batch(2)]
    for layer in by_hand.some(run.layers):
        found.resets[layer] = by_hand.reset(specimen, model, run, layer, data)


def cell(dataset: xr.Dataset) -> str:
    """``"value"``, or which layers have none and why.

    Raises:
        AssertionError: A layer is not a number and no reason is given, or the other way round.
    """
    if "missing" not in dataset.coords:
        return "value"
    reasons = [str(reason) for reason in dataset["missing"].values if reason]
    if not reasons:
        return "value"
    return f"missing: {len(reasons)} of {dataset.sizes['layer']}, e.g. {min(reasons, key=len)}"


def unexplained(dataset: xr.Dataset, variables: list[str]) -> list[str]:
    """Layers that have no number and no reason for it."""
    missing = dataset.coords.get("missing")
    reasons = [""] * dataset.sizes["layer"] if missing is None else missing.values.tolist()
    bare = []
    for name in [name for name in variables if name in dataset]:
        others = [d for d in dataset[name].dims if d != "layer"]
        empty = np.isnan(dataset[name]).any(others).values
        bare += [
            f"{name} of {layer}"
            for layer, reason, nan in zip(dataset["layer"].values, reasons, empty, strict=True)
            if nan != bool(reason)
        ]
    return bare


def _first(text: str) -> str:
    return text.strip().splitlines()[0]


def _copies(model: nn.Module) -> list[str]:
    ways: dict[str, Callable[[], object]] = {
        "deepcopy": lambda: copy.deepcopy(model),
        "torch.save": lambda: torch.save(model, io.BytesIO()),
    }
    worked = []
    for name, way in ways.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                way()
        except Exception:  # models of the zoo that cannot be copied do not have to become so
            continue
        worked.append(name)
    return worked
