from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tests.cases import CLASSIFY, Tied, classes, tokens
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks import fisher
from layerscope.networks.factors import collect, row_names
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes import ConditioningError, conditioning_error
from layerscope.probes.base import Moment


def measured(probe, model, batch, task=CLASSIFY):
    layers = LayerMap.from_model(model, batch, forward=task.forward)
    moment = Moment(0, dict(model.state_dict()), model=model, task=task, batch=batch)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


BATCH = classes(2, 7, 7, n=40)(0)


@pytest.mark.parametrize("kind", ["empirical", "exact"])
@pytest.mark.parametrize("name", ["0", "2", "4"])
def test_numbers_are_those_of_matrices_that_are_written_out(name, kind):
    """The whole Kronecker product, block by block, against the whole block."""
    model = network()
    rows, found, _ = measured(ConditioningError(fisher=kind, mode="eval"), model, BATCH)
    at = rows.names.index(name)
    block = fisher.fisher_exact(model, BATCH, CLASSIFY, kind, names=[f"{name}.weight"])
    every = collect(model, [BATCH], CLASSIFY, kind, places="patches")
    names = row_names({use: one.name for use, one in every.items()})
    (one,) = [f for use, f in every.items() if names[use] == name]
    positions = {"0": 9, "2": 4, "4": 1}[name]
    pairs = zip(one.gradient.matrix(), one.input.matrix(), strict=True)
    product = positions * torch.block_diag(*(torch.kron(g, x) for g, x in pairs))
    assert product.shape == block.shape
    values = {"exact": torch.linalg.eigvalsh(block), "product": torch.linalg.eigvalsh(product)}
    for which, eigenvalues in values.items():
        top = float(eigenvalues[-1])
        assert float(found[f"largest_{which}"][at]) == pytest.approx(top, rel=1e-5)
    overlap = float((block * product).sum() / (block.norm() * product.norm()))
    explained = 1 - float((block - product).square().sum() / block.square().sum())
    assert float(found["overlap"][at]) == pytest.approx(overlap, rel=1e-4)
    assert float(found["explained"][at]) == pytest.approx(explained, rel=1e-3, abs=1e-5)


def test_one_example_at_one_position_is_a_product_exactly():
    model = network()
    batch = (BATCH[0][:1], BATCH[1][:1])
    rows, found, _ = measured(ConditioningError(mode="eval"), model, batch)
    at = rows.names.index("4")
    assert float(found["explained"][at]) == pytest.approx(1, abs=1e-6)
    assert float(found["largest_ratio"][at]) == pytest.approx(1, abs=1e-5)


def test_a_large_layer_has_its_largest_eigenvalue_only(monkeypatch):
    model = network()
    rows, whole, _ = measured(ConditioningError(mode="eval"), model, BATCH)
    monkeypatch.setattr(fisher, "LARGEST", 25)
    _, found, moment = measured(ConditioningError(mode="eval"), model, BATCH)
    for at in range(len(rows)):
        top = float(whole["largest_exact"][at])
        assert float(found["largest_exact"][at]) == pytest.approx(top, rel=1e-3)
        assert math.isnan(float(found["overlap"][at]))
    assert moment.missing == {}


@pytest.mark.parametrize("largest", [5000, 60, 50])
def test_gradients_of_all_layers_are_those_of_each(monkeypatch, largest):
    """Whether all fit memory together (here 40 x 120 numbers), some, or one at a time."""
    model, batch = network(), BATCH
    probe = ConditioningError(mode="eval", samples=32)
    moment = Moment(0, dict(model.state_dict()), model=model, task=CLASSIFY, batch=batch)
    names = [n for n in dict(model.named_parameters()) if n.endswith("weight")]
    runs = []

    def counted(*given, **options):
        found = fisher.sample_gradients(*given, **options)
        runs.append(options["names"])
        return found

    alone = {
        n: fisher.sample_gradients(model, batch, CLASSIFY, "empirical", names=[n]) for n in names
    }
    monkeypatch.setattr(fisher, "LARGEST", largest)
    monkeypatch.setattr(
        conditioning_error, "exact", SimpleNamespace(**vars(fisher) | {"sample_gradients": counted})
    )
    found = dict(probe._gradients(moment, batch, names))
    for name in names:
        torch.testing.assert_close(found[name], alone[name], rtol=1e-5, atol=1e-7)
    assert runs == {5000: [names], 60: [names[:1], names[1:]], 50: [[n] for n in names]}[largest]


def test_a_shared_parameter_has_no_block_of_its_own():
    probe = ConditioningError()
    rows, found, moment = measured(probe, Tied(), tokens(0), Task.language_model())
    assert moment.missing["embedding"] == moment.missing["output"]
    assert "shares it" in moment.missing["output"]
    assert math.isfinite(float(found["overlap"][rows.names.index("hidden")]))


def test_a_scale_has_no_block_and_is_not_missed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    rows, found, moment = measured(ConditioningError(), model, classes(4, n=9)(0))
    assert [layer.kind for layer in rows] == ["linear", "scale", "linear"]
    assert found["largest_ratio"].isnan().tolist() == [False, True, False]
    assert moment.missing == {}


def test_samples_are_at_least_one():
    with pytest.raises(LayerscopeError, match="samples 0"):
        ConditioningError(samples=0)
