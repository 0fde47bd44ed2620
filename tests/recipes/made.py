"""Made data whose verdicts are known, under the keys that studies have."""

import numpy as np
import xarray as xr

from layerscope.probes.base import snake
from layerscope.studies.guards import PLANNED


def noisy(values, *dims, seeds=5):
    """Values with a leading dimension of seeds and a little noise, as an array with names."""
    values = np.asarray(values, float)
    noise = np.random.default_rng(0).normal(0, 1e-5, (seeds, *values.shape))
    return (("seed", *dims), values * (1 + noise))


def performance(error=50.0, loss=0.1, seeds=5):
    """What `Performance` measures after epochs 0, 1, and so on: one error, or one for each."""
    errors = np.atleast_1d(np.asarray(error, float))
    variables = {
        "error": noisy(errors, "step", seeds=seeds),
        "loss": noisy(np.full(len(errors), loss), "step", seeds=seeds),
    }
    epochs = np.arange(len(errors), dtype=float)
    coords = {"seed": range(seeds), "step": epochs.astype(int), "epoch": ("step", epochs)}
    return xr.Dataset(variables, coords)


def tree(study, made, seeds=None):
    """The data of a study.

    Args:
        study: The study; as many seeds were planned as it has.
        made: From a variant to datasets by kind of probe, e.g. ``"convergence"``, a list where the
            study has several of a kind, or by key; None for a variant without any run. What
            nothing is made for is a test error of 50%.
        seeds: How many seeds were planned where not those of the study.
    """
    nodes = {"/": xr.Dataset(attrs={PLANNED: seeds or len(study.seeds)})}
    for variant in study.variants:
        if (given := made(variant)) is None:
            continue
        found = {"performance": performance(), **given}
        for probe in study.probes:
            kind = snake(type(probe).__name__)
            dataset = found[probe.key if probe.key in found else kind]
            if isinstance(dataset, list):
                dataset = dataset.pop(0)
            nodes[f"{variant}/{probe.key}"] = dataset
        for one in study.per_step:
            nodes[f"{variant}/{one.key}"] = found[one.key]
    return xr.DataTree.from_dict(nodes)


def verdicts(study, made, **options):
    """The verdict on every claim of a study by name."""
    data = tree(study, made, **options)
    return {claim.id: claim.decide(data) for claim in study.claims}


def decided(study, made, **options):
    """The outcome of every claim of a study by name."""
    return {name: v.outcome for name, v in verdicts(study, made, **options).items()}
