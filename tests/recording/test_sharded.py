"""Recording parameters that are spread over processes, against one process that has them all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tests.recording.sharded_work import ALL, FEW, SAMPLES, SUMS, four, seeded, two
from tests.sharded import MLP, STEPS, Mixed, results, train

from layerscope.probes import measure
from layerscope.runs.store import Run

KINDS = {"fsdp": Mixed, "hsdp": Mixed, "tensor": MLP, "both": MLP}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded") / "runs"


@pytest.fixture(scope="module")
def found(folder):
    """What each of two processes ends with."""
    return results(folder, 2, two)


def check(folder, found, way):
    """Weights, checkpoints and measurements of one way to share parameters."""
    for one in (each[way] for each in found):
        assert one["recorded"].keys() == one["bare"].keys()
        for name, value in one["bare"].items():
            assert torch.equal(one["recorded"][name], value), name
    run = Run.open(folder / way)
    assert (run.status, run.steps, run.missing) == ("complete", list(range(STEPS + 1)), "")
    alone = train(seeded(KINDS[way])).weights
    last = run.checkpoint(STEPS)
    assert set(last) == set(alone)
    for name, value in alone.items():  # gradients are averages of averages: float32, some steps
        torch.testing.assert_close(last[name], value, rtol=1e-4, atol=1e-5)
    check_numbers(run, ALL["probes"] if way == "fsdp" else FEW["probes"])
    for one in found:
        change = run.results(SUMS[0].key)["change"].values[-1]
        np.testing.assert_array_equal(one[way]["latest"].numpy(), change)


def check_numbers(run, probes):
    """What processes measured together, against one process that reads the checkpoints."""
    for probe in probes:
        live, offline = run.results(probe.key), measure(probe, run)
        assert live["layer"].values.tolist() == offline["layer"].values.tolist()
        for name in probe.variables:
            # sums of parts are rounded otherwise than sums of all; samples are gathered first
            rtol = 0 if probe in SAMPLES else 2e-6
            np.testing.assert_allclose(live[name], offline[name], rtol=rtol, atol=0)


SLOW = pytest.mark.slow
"""All need what two processes have found, which takes ten seconds; one way is always checked."""


@pytest.mark.parametrize(
    "way", ["fsdp", pytest.param("hsdp", marks=SLOW), pytest.param("tensor", marks=SLOW)]
)
def test_numbers_checkpoints_and_weights_are_those_of_one_process(folder, found, way):
    check(folder, found, way)


@SLOW
def test_half_precision_is_summed_and_gathered_too(folder, found):
    run = Run.open(folder / "half")
    assert run.checkpoint(STEPS)["first.weight"].dtype == torch.bfloat16
    check_numbers(run, FEW["probes"])


@pytest.mark.slow
def test_so_they_are_on_meshes_of_two_dimensions(tmp_path):
    found = results(tmp_path / "runs", 4, four)
    for way in ("hsdp", "both"):
        check(tmp_path / "runs", found, way)


@SLOW
def test_layers_have_the_shapes_and_kinds_of_the_whole_model(folder, found):
    layers = Run.open(folder / "fsdp").layers
    assert layers["first"].parameters == {"first.weight": (5, 7), "first.bias": (5,)}
    assert found[1]["fsdp"]["kinds"] == ["Linear", "LayerNorm", "Linear", "Linear"]


@SLOW
def test_under_ddp_the_first_process_records(folder, found):
    for one in (each["ddp"] for each in found):
        assert all(torch.equal(one["recorded"][name], v) for name, v in one["bare"].items())
    assert found[0]["ddp"]["run"] == ""
    assert "the process of rank 1 does not record" in found[1]["ddp"]["run"]
    run = Run.open(folder / "ddp")
    assert all(
        np.array_equal(run.results(probe.key)["change"], measure(probe, run)["change"])
        for probe in (SUMS[0], SUMS[4])
    )


@SLOW
def test_a_full_disk_of_the_first_is_an_error_of_all(folder, found):
    first, second = (each["disk"] for each in found)
    assert first.startswith("LayerscopeError: cannot write")
    assert "the process of rank 0 failed: cannot write" in second
    assert "No space left on device" in second
    run = Run.open(folder / "disk")
    assert (run.status, run.steps) == ("interrupted", [0, 1])


@SLOW
def test_a_loss_that_is_no_number_on_one_is_divergence_on_all(folder, found):
    first, second = (each["loss"] for each in found)
    assert second.startswith("DivergedError: the loss is not finite at step 3")
    assert first.startswith("DivergedError: the process of rank 1 failed: the loss is not finite")
    assert Run.open(folder / "loss").status == "diverged"


@SLOW
def test_a_probe_that_fails_on_one_keeps_nobody_waiting(found):
    first, second = (each["fragile"] for each in found)
    assert "fragile failed at step 2: MemoryError: out of memory" in second
    assert "fragile failed at step 2: the process of rank 1 failed" in first


@SLOW
def test_a_folder_that_holds_a_run_is_an_error_of_all(found):
    first, second = (each["taken"] for each in found)
    assert "already holds a run" in first
    assert "the process of rank 0 failed" in second
    assert "already holds a run" in second


@SLOW
def test_the_largest_is_no_number_where_one_is_none(found):
    for one in found:
        np.testing.assert_array_equal(one["largest"], [2.0, np.nan, np.inf, np.nan])


@SLOW
def test_parameters_that_are_gathered_are_not_measured(found):
    for one in found:
        assert "is gathered at this moment" in one["gathered"]
        assert "model.reshard()" in one["gathered"]


@SLOW
def test_what_is_compared_with_may_be_kept_elsewhere(folder, found):
    kept, all_of_it = Run.open(folder / "kept"), Run.open(folder / "fsdp")
    assert kept.steps == []
    values = kept.results("weight_change")
    assert values.attrs["kept"] == "bfloat16, on cpu"
    exact = measure(type(SUMS[1])(), all_of_it)["change"]
    assert 0 < np.abs(values["change"] / exact.values - 1).max() < 0.1


@SLOW
@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("gradient", r"gradient_magnitude needs .*model.* while the parameters are sharded.*meas"),
        ("median", r"weight_change\(reduction='median'\) does not add up.*sample=4096"),
        ("matched", r"weight_change\(size_matched=True\) does not add up"),
        ("resume", "keeps no state to resume from.*new run"),
        ("state", "keeps no state to resume from"),
        ("partial", "parameter 'weight' is a partial sum.*Replicate"),
        ("some", "different parameters, as in pipeline parallelism"),
    ],
)
def test_what_cannot_be_recorded_is_refused_on_all(found, case, says):
    for one in found:
        assert one["refused"][case].startswith("LayerscopeError")
        assert re.search(says, one["refused"][case]), one["refused"][case]
