"""Where weights are kept that probes compare with, and runs that keep no checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CNN, FCN
from tests.memory import peak_bytes
from tests.training_loop import assert_same, train
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes import DistanceFromInitialisation, WeightChange, measure
from layerscope.probes.parts import Keep, one_by_one
from layerscope.recording.recorder import Recorder
from layerscope.report.publish import write_report
from layerscope.runs.store import Run
from layerscope.schedule import every, never

PROBES = (
    WeightChange(),
    WeightChange(reduction="angle"),
    WeightChange(reduction="median"),
    WeightChange(sample=9),
    DistanceFromInitialisation(),
)


def recorded(path, model, scale=1.0, **options):
    """Results of one step that multiplies all weights."""
    options = {"probes": PROBES, "measure": every(1), "checkpoints": never(), **options}
    with Recorder(model, path, **options) as recorder:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        recorder.step()
    return [recorder.run.results(probe.key) for probe in PROBES]


def layers(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(60, 80), nn.Linear(80, 60)).to(dtype)


@pytest.mark.parametrize("keep", [Keep("cpu"), Keep(dtype=torch.float64), Keep("cpu", None)])
def test_numbers_are_the_same_where_nothing_is_lost(tmp_path, keep):
    plain = recorded(tmp_path / "a", layers(), 1.1)
    apart = recorded(tmp_path / "b", layers(), 1.1, keep=keep)
    for one, other, probe in zip(plain, apart, PROBES, strict=True):
        assert ("kept" in one.attrs, other.attrs["kept"]) == (False, str(keep))
        for name in probe.variables:
            np.testing.assert_array_equal(one[name], other[name])


def test_bfloat16_loses_nothing_of_a_model_of_that_type(tmp_path):
    model = [layers(torch.bfloat16) for _ in range(2)]
    plain = recorded(tmp_path / "a", model[0], 1.5)
    kept = recorded(tmp_path / "b", model[1], 1.5, keep=Keep(dtype=torch.bfloat16))
    for one, other in zip(plain, kept, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_bfloat16_drowns_small_changes_as_documented(tmp_path):
    keep = Keep(dtype=torch.bfloat16)
    still, *_ = recorded(tmp_path / "a", layers(), 1.0, keep=keep)
    assert np.all(np.abs(still["change"].values - 0.0014) < 0.0002)
    moved, *_ = recorded(tmp_path / "b", layers(), 1.1, keep=keep)
    np.testing.assert_allclose(moved["change"], 0.1, rtol=0.02)


def test_weights_come_back_one_layer_at_a_time(tmp_path):
    model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(6)))
    size = sum(p.numel() for p in model.parameters()) * 4
    probes = [WeightChange(), DistanceFromInitialisation()]
    options = {"probes": probes, "measure": every(1), "checkpoints": never()}

    def record():
        with Recorder(model, tmp_path / "a", keep=Keep("cpu", torch.bfloat16), **options) as one:
            one.step()

    # two halves are kept; back come one layer, and the difference of one tensor
    assert peak_bytes(record) < size + 3 * size / 6


def test_layers_without_entries_go_with_their_neighbours():
    found = []
    sizes = {"a": 0, "b": 2, "c": 0, "d": 3, "e": 0}
    model = nn.ParameterDict({name: torch.zeros(size, size) for name, size in sizes.items()})

    def measured(some):
        found.append(some.names)
        return {"n": torch.tensor([layer.n_parameters for layer in some])}

    values = one_by_one(measured, LayerMap.from_model(model, None, unit="tensor"))
    assert found == [("a", "b"), ("c", "d", "e")]
    assert values["n"].tolist() == [0, 4, 0, 9, 0]


@pytest.mark.parametrize(
    "wrong", [{"dtype": torch.int64}, {"dtype": torch.float8_e5m2}, {"device": "elsewhere"}]
)
def test_what_weights_cannot_be_kept_as_is_refused(wrong):
    with pytest.raises(LayerscopeError, match=r"weights cannot be kept .*\n.*Use "):
        Keep(**wrong)


@pytest.mark.parametrize("case", [FCN, CNN], ids=lambda case: case.name)
def test_training_is_the_same_bit_for_bit(case, tmp_path):
    options = {"probes": PROBES, "measure": every(1), "checkpoints": never()}
    keep = Keep("cpu", torch.bfloat16)
    assert_same(train(case, path=tmp_path / "a", keep=keep, **options), train(case))


# No checkpoints


def test_without_checkpoints_no_weights_are_written(tmp_path):
    distance = recorded(tmp_path / "a", layers(), 3.0)[-1]
    np.testing.assert_allclose(distance["relative_distance"][1], 2.0, rtol=1e-6)
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps) == ("complete", [])
    assert not list(run.path.rglob("*.safetensors"))
    assert run.missing == "it kept no checkpoints, so that only what was measured live is there"


def test_what_needs_checkpoints_says_so(tmp_path):
    recorded(tmp_path / "a", layers())
    run = Run.open(tmp_path / "a")
    for ask in (
        lambda: measure(WeightChange(), run),
        lambda: run.checkpoint(0),
        lambda: write_report(run, tmp_path / "report.html"),
    ):
        with pytest.raises(LayerscopeError, match=r"checkpoints=never\(\) .*\n.*from_checkpoints"):
            ask()


def test_a_trainers_own_checkpoints_make_a_run_beside_it(tmp_path):
    model = layers()
    states = {0: {k: v.clone() for k, v in model.state_dict().items()}}
    live = recorded(tmp_path / "a", model, 1.5)[0]
    states[1] = model.state_dict()
    run = Run.from_checkpoints(tmp_path / "b", states, model)
    np.testing.assert_array_equal(measure(WeightChange(), run)["change"], live["change"])


def test_layers_by_pattern_cost_themselves_and_checkpoints_hold_all(tmp_path):
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(300, 300))
    chosen = LayerMap.from_model(model, None, include=["0"])
    options = {"probes": PROBES[:1], "layers": chosen, "measure": every(1)}

    def record():
        with Recorder(model, tmp_path / "a", checkpoints=never(), **options) as recorder:
            recorder.step()

    assert peak_bytes(record) < 10_000  # the other layer has 360,000
    with Recorder(model, tmp_path / "b", steps_per_epoch=1, **options) as recorder:
        recorder.step()
    assert set(recorder.run.checkpoint(0)) == set(model.state_dict())
    assert recorder.run.results("weight_change")["layer"].values.tolist() == ["0"]


def test_a_run_goes_on_with_the_same_sample_only(tmp_path):
    model = layers()
    options = {"measure": every(1), "steps_per_epoch": 1}
    with Recorder(model, tmp_path / "a", probes=[WeightChange(sample=9)], **options) as recorder:
        recorder.step()
        recorder.flush()
        state = recorder.state_dict()
    same = Recorder(model, tmp_path / "a", probes=[WeightChange(sample=9)], resume=True, **options)
    same.load_state_dict(state)
    assert same.current_step == 1
    for probe in (WeightChange(), WeightChange(sample=8), WeightChange(sample=9, subset_seed=1)):
        other = Recorder(model, tmp_path / "a", probes=[probe], resume=True, **options)
        with pytest.raises(LayerscopeError, match="was recorded with other probes"):
            other.load_state_dict(state)
