"""Made data whose verdicts are known."""

import numpy as np
import xarray as xr

from layerscope.studies.study import PLANNED


def noisy(values, *dims, seeds=5):
    """Values with a leading dimension of seeds and a little noise, as an array with names."""
    values = np.asarray(values, float)
    noise = np.random.default_rng(0).normal(0, 1e-5, (seeds, *values.shape))
    return (("seed", *dims), values * (1 + noise))


def tree(study, nodes):
    """The data of a study, with as many seeds planned as it has."""
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={PLANNED: len(study.seeds)}), **nodes})


def verdicts(study, nodes):
    """The verdict on every claim of a study, in order."""
    data = tree(study, nodes)
    return [claim.decide(data) for claim in study.claims]


def decided(study, nodes):
    """The outcome of every claim of a study by name."""
    names = [claim.id for claim in study.claims]
    return {name: v.outcome for name, v in zip(names, verdicts(study, nodes), strict=True)}
