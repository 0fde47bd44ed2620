"""Probes of weights on random entries: like the plain loop over them, live and from checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.cases import CNN
from tests.memory import peak_bytes
from tests.reference import sampling as reference
from tests.training_loop import train
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.functional.sampling import draw, layer_seed
from layerscope.networks.shards import entries
from layerscope.probes import (
    Convergence,
    DistanceFromInitialisation,
    PathAndProgress,
    WeightChange,
    measure,
    measure_all,
)
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every

SAMPLED = (
    WeightChange(sample=10),
    WeightChange(sample=10, subset_seed=1),
    WeightChange(p=2.0, sample=25, minimum_dimensions=1),
    WeightChange(reduction="angle", sample=10),
    WeightChange(reduction="elementwise", sample=10),
    WeightChange(reduction="median", sample=10),
    WeightChange(size_matched=True, sample=20),
    DistanceFromInitialisation(sample=7),
)


def chosen(layer, size, seed):
    sizes = [math.prod(shape) for shape in layer.parameters.values()]
    return draw(sum(sizes), size, layer_seed(seed, layer.name, sizes)).tolist()


def test_values_are_those_of_the_plain_loop_over_the_chosen_entries(run):
    change, distance = WeightChange(p=3.0, sample=10, subset_seed=4), SAMPLED[-1]
    found = measure_all([change, distance], run)
    states = [run.checkpoint(step) for step in run.steps]
    for layer in change.select(run.layers):
        picked = [reference.chosen_values(layer, s, chosen(layer, 10, 4)) for s in states]
        expected = [reference.ratio(b, a, 3) for b, a in pairwise(picked)]
        values = found[change.key]["change"].sel(layer=layer.name)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    for layer in run.layers:
        first, *later = [reference.chosen_values(layer, s, chosen(layer, 7, 0)) for s in states]
        values = found[distance.key].sel(layer=layer.name)
        np.testing.assert_allclose(
            values["rms_distance"][1:], [reference.rms(first, now) for now in later], rtol=1e-5
        )
        largest = [max(abs(a - b) for a, b in zip(first, now, strict=True)) for now in later]
        np.testing.assert_allclose(values["max_distance"][1:], largest, rtol=1e-6)


def test_live_values_are_those_from_checkpoints(tmp_path):
    options = {"probes": SAMPLED, "measure": every(1), "checkpoints": every(1)}
    train(CNN, 4, path=tmp_path / "a", **options)
    run = Run.open(tmp_path / "a")
    for probe in SAMPLED:
        live, offline = run.results(probe.key), measure(probe, run)
        for name in probe.variables:
            np.testing.assert_array_equal(live[name], offline[name])
        assert live.attrs["sample"] == offline.attrs["sample"] == str(probe.sampling)
        assert "random entries of each layer" in probe.figures(live)[0].caption


@pytest.mark.parametrize(
    "probe",
    [WeightChange(), DistanceFromInitialisation(), Convergence(), PathAndProgress()],
    ids=lambda probe: probe.key,
)
def test_a_sample_of_all_entries_is_the_layer(run, probe):
    whole, sampled = measure(probe, run), measure(replace(probe, sample=10**6), run)
    assert whole["n_parameters"].identical(sampled["n_parameters"])
    for name in whole:
        np.testing.assert_allclose(whole[name], sampled[name], rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("probe", [Convergence(sample=9), PathAndProgress(sample=9)])
def test_probes_of_finished_runs_say_what_they_looked_at(run, probe):
    found = measure(probe, run)
    assert found.attrs["sample"] == "9 random entries of each layer, all where it has fewer"
    assert all("9 random entries" in figure.caption for figure in probe.figures(found))
    assert probe.key.endswith(",sample=9")


def test_the_largest_of_a_sample_is_said_to_be_a_bound(run):
    found = measure(DistanceFromInitialisation(sample=3), run)["max_distance"]
    assert "a lower bound for the layer" in found.attrs["long_name"]
    assert bool((found <= measure(DistanceFromInitialisation(), run)["max_distance"]).all())


def test_results_from_before_there_were_samples_are_read_back(run):
    probe = WeightChange()
    found = measure(probe, run)
    settings = found.attrs["settings"]
    assert '"sample": null' in settings
    found.attrs["settings"] = settings.replace(', "sample": null', "")
    assert found.attrs["settings"] != settings
    found["change"][:] = 7.0
    run.replace_results(f"{probe.key}@checkpoints", found)
    assert bool((measure(probe, run)["change"] == 7.0).all())


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "all"])
@pytest.mark.parametrize("kind", [WeightChange, DistanceFromInitialisation, Convergence])
def test_a_size_that_is_none_is_refused(kind, size):
    with pytest.raises(LayerscopeError, match=rf"sample of {kind.__name__} is .*\n.*4096"):
        kind(sample=size)


@pytest.mark.parametrize("kind", [torch.Tensor.contiguous, lambda t: t.permute(2, 0, 1)])
def test_entries_are_picked_in_any_layout(kind):
    tensor = kind(torch.arange(24.0).view(2, 3, 4))
    flat = torch.tensor([0, 5, 23])
    assert torch.equal(entries(tensor, flat), tensor.flatten()[flat])
    assert entries(torch.tensor(3.0), torch.tensor([0])).tolist() == [3.0]
    assert entries(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_memory_is_that_of_the_sample_not_of_the_model(tmp_path):
    model = nn.Linear(1000, 1000)
    probes = [WeightChange(sample=100), DistanceFromInitialisation(sample=100)]

    def record():
        schedules = {"measure": every(1), "checkpoints": every(100)}
        with Recorder(model, tmp_path / "a", probes=probes, **schedules) as recorder:
            for _ in range(3):
                recorder.step()

    assert peak_bytes(record) < 100_000  # the model has 4 MB


def test_from_checkpoints_one_tensor_at_a_time_is_in_memory(tmp_path):
    model = nn.Sequential(*(nn.Linear(500, 500) for _ in range(4)))
    states = {step: model.state_dict() for step in range(2)}
    run = Run.from_checkpoints(tmp_path / "a", states, model)
    probes = [WeightChange(sample=100), Convergence(sample=100, time="step")]
    mapped = sum(file.stat().st_size for file in run.path.rglob("*.safetensors"))
    largest = 4 * 500 * 500
    # the files are mapped, which counts and takes none; only one tensor is copied from there
    assert peak_bytes(lambda: measure_all(probes, run)) < mapped + 1.2 * largest
