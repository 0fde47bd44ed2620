"""Shared evaluation gives the numbers of the plain loop."""

import pytest
import torch
from tests.cases import CASES, CNN, DEEP, FCN, OPERATORS
from tests.memory import peak_bytes
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import isolated
from layerscope.networks.names import unique_state
from layerscope.networks.task import Task
from layerscope.networks.tracing import COPIES, trace
from layerscope.networks.variants import evaluate_variants
from reference import variants as reference


def disturbed(case, model, draws, seed=0):
    """The base, then every layer with noise on its parameters, ``draws`` times."""
    generator = torch.Generator().manual_seed(seed)
    state = unique_state(model)
    noise = [
        {n: state[n] + 0.1 * torch.randn(state[n].shape, generator=generator) for n in group}
        for layer in case.map(model)
        for group in [layer.parameters] * draws
    ]
    return [{}, *noise]


def same(found, expected):
    losses, correct = expected
    torch.testing.assert_close(found.losses, losses, rtol=2e-6, atol=1e-6)
    assert torch.equal(found.correct, correct)


@pytest.mark.parametrize("budget", [2**30, 20_000, 1])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_are_those_of_the_plain_loop(case, budget):
    model, data = case.model(), [case.batch(0), case.batch(1)]
    variants = disturbed(case, model, 3)
    found = evaluate_variants(model, variants, data, case.task, budget=budget)
    same(found, reference.evaluate(model, variants, data, case.task))


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: case.name)
def test_hard_operators_give_the_numbers_of_the_plain_loop(case, draws):
    model, data = case.model(), [case.batch(0), case.batch(1)]
    variants = disturbed(case, model, draws)
    found = evaluate_variants(model, variants, data, case.task)
    same(found, reference.evaluate(model, variants, data, case.task))


def test_a_model_that_does_not_run_on_the_data_is_an_error_that_says_so():
    data = [(torch.ones(2, 5), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(LayerscopeError, match=r"does not run on a batch of these data: .*5"):
        evaluate_variants(FCN.model(), [{}], data, FCN.task)


@pytest.mark.slow
@pytest.mark.parametrize("case", DEEP, ids=lambda case: case.name)
def test_deep_networks_give_the_numbers_of_the_plain_loop(case):
    model, data = case.model().eval(), [case.batch(0)]
    variants = disturbed(case, model, 2)
    found = evaluate_variants(model, variants, data, case.task)
    same(found, reference.evaluate(model, variants, data, case.task))


def test_buffers_are_replaced_too():
    model, data = CNN.model(), [CNN.batch(0)]
    state = unique_state(model)
    layer = next(layer for layer in CNN.map(model) if layer.buffers)
    variants = [{n: state[n] + 1 for n in (*layer.parameters, *layer.buffers)}, {}]
    found = evaluate_variants(model, variants, data, CNN.task)
    same(found, reference.evaluate(model, variants, data, CNN.task))
    assert not torch.equal(found.losses[0], found.losses[1])


def test_several_layers_at_once_and_the_whole_model():
    model, data = FCN.model(), [FCN.batch(0)]
    other = unique_state(FCN.model(seed=1))
    pairs = [{n: other[n] for n in other if n.startswith(p)} for p in (("layer1", "output"), "")]
    found = evaluate_variants(model, pairs, data, FCN.task)
    same(found, reference.evaluate(model, pairs, data, FCN.task))
    alone = reference.evaluate(FCN.model(seed=1), [{}], data, FCN.task)[0]
    torch.testing.assert_close(found.losses[1:], alone, rtol=1e-6, atol=1e-6)


def test_batches_of_different_sizes():
    model = FCN.model()
    inputs, labels = FCN.batch(0)
    data = [(inputs, labels), (inputs[:3], labels[:3])]
    variants = disturbed(FCN, model, 2)
    found = evaluate_variants(model, variants, data, FCN.task)
    same(found, reference.evaluate(model, variants, data, FCN.task))


def test_other_base_weights():
    model, other, data = FCN.model(), FCN.model(seed=1), [FCN.batch(0)]
    found = evaluate_variants(model, [{}], data, FCN.task, weights=unique_state(other))
    same(found, reference.evaluate(other, [{}], data, FCN.task))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_model_is_left_as_found(case):
    model = case.model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate_variants(model, disturbed(case, model, 1), [case.batch(0)], case.task)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_a_budget_bounds_the_rows_evaluated_at_once():
    rows = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            rows.append(x.shape[0])
            return self.inner(x)

    data = [(torch.randn(64, 3), torch.zeros(64, dtype=torch.long))]
    task = Task.classification()
    evaluate_variants(Watched(), [{}], data, task, budget=10**6)
    assert rows == [64, 64]  # traced, and asked whether the graph gives the same
    rows.clear()
    evaluate_variants(Watched(), [{}], data, task, budget=100)
    assert max(rows[1:]) < 64


@pytest.mark.slow
@pytest.mark.parametrize("case", DEEP, ids=lambda case: case.name)
def test_tensors_stay_within_the_budget(case):
    model = case.model().eval()
    inputs, labels = case.batch(0)
    data = [(inputs.repeat(16, 1, 1, 1), labels.repeat(16))]
    variants = disturbed(case, model, 4)
    ample = peak_bytes(lambda: evaluate_variants(model, variants, data, case.task))
    budget = int(0.4 * ample)
    peak = peak_bytes(lambda: evaluate_variants(model, variants, data, case.task, budget=budget))
    results = 2 * len(variants) * 128 * 9  # a loss and a truth each, copied once when joined
    assert peak <= 1.05 * budget + results  # convolutions take a little scratch of their own


BAD = {
    "name": ({"layer9.weight": torch.ones(1)}, "'layer9.weight', which the model does not have"),
    "shape": ({"output.bias": torch.ones(99)}, "the shape \\(99,\\)"),
}


@pytest.mark.parametrize(("variant", "message"), BAD.values(), ids=BAD)
def test_variants_that_do_not_fit_are_named(variant, message):
    with pytest.raises(LayerscopeError, match=message):
        evaluate_variants(FCN.model(), [variant], [FCN.batch(0)], FCN.task)


def test_data_of_which_nothing_counts_are_an_error():
    inputs, labels = FCN.batch(0)
    with pytest.raises(LayerscopeError, match="no example of the data counts"):
        evaluate_variants(
            FCN.model(), [{}], [(inputs, torch.full_like(labels, -100))] * 2, FCN.task
        )
    found = evaluate_variants(
        FCN.model(), [{}], [(inputs, torch.full_like(labels, -100)), (inputs, labels)], FCN.task
    )
    assert found.losses.shape == (1, len(labels))


def test_no_data_is_an_error():
    with pytest.raises(LayerscopeError, match="no data"):
        evaluate_variants(FCN.model(), [{}], [], FCN.task)


def test_a_graph_copies_nothing_and_leaves_its_inputs_alone():
    class Copying(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)

        def forward(self, x):
            hidden = self.conv(x).contiguous(memory_format=torch.channels_last)
            kept = hidden.clone()
            kept.copy_(self.act(hidden) + 1)
            return (kept.add_(hidden).mean((2, 3)), x.clone())

    model, x = Copying().eval(), torch.randn(2, 1, 6, 6)
    task = Task(lambda model, batch: model(batch), CNN.task.loss, CNN.task.losses)
    state = dict(model.state_dict())
    with torch.no_grad(), isolated(model):
        graph = trace(model, task, state, x)
        expected = model(x)
    copies = [node for node in graph.operators if node.target in COPIES]
    assert len(copies) == 1  # into another memory format
    before = x.clone()
    for found, one in zip(graph.base_outputs(state, x), expected, strict=True):
        assert torch.equal(found, one)
    assert torch.equal(x, before)
