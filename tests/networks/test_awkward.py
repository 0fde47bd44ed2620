"""Measured with the numbers of plain passes, and left as found: models that make it hard."""

from __future__ import annotations

import copy
import io
import logging
import warnings

import numpy as np
import pytest
import torch
from tests.awkward import AWKWARD, DERIVED, TwoNames
from tests.cases import CASES, CLASSIFY, FCN
from tests.reference import predictiveness as slow
from tests.reference import variants as reference
from tests.reference.gradient import mean_gradients

from layerscope.networks import tracing
from layerscope.networks.curvature import gradients
from layerscope.networks.isolation import isolated
from layerscope.networks.names import unique_state
from layerscope.networks.sharing import shared_loss
from layerscope.networks.task import rows
from layerscope.networks.variants import evaluate_variants
from layerscope.probes import GradientMagnitude, GradientPredictiveness
from layerscope.probes.base import Moment

ALL = pytest.mark.parametrize("case", AWKWARD, ids=lambda case: case.name)
NAMES = {case.name: case for case in AWKWARD}


def differentiable(layers):
    names = [layer.name for layer in layers if layer.name not in ("table", "empty")]
    return layers.only(names)


def saved(model):
    """Everything of a model that can be pickled, as bytes; hooks that are closures cannot."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return buffer.getvalue()


@ALL
def test_gradients_are_those_of_plain_backward_passes(case):
    model, batch = case.model().eval(), case.batch(3)
    other = {n: t.clone() for n, t in unique_state(case.model(seed=5)).items()}
    layers = differentiable(case.map(model))
    here = Moment(0, other, model=model, task=case.task, batch=batch)
    found = GradientMagnitude().measure(here, layers)["gradient_magnitude"]
    twin = case.model().eval()
    for name, tensor in unique_state(twin).items():
        tensor.copy_(other[name])
    expected = mean_gradients(plain_precision(twin), case.task, batch, layers)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


def plain_precision(model):
    """The model without an override of ``forward`` that switches autocast on.

    Derived tensors are leaves, as after a pass without gradients, so that it can be copied.
    """
    vars(model).pop("forward", None)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                vars(module)[name] = value.detach()
    return model


@ALL
def test_variants_have_the_numbers_of_the_plain_loop(case):
    model, data = case.model().eval(), [case.batch(0), case.batch(1)]
    generator = torch.Generator().manual_seed(0)
    state = unique_state(model)
    variants = [{}] + [
        {n: state[n] + (0.1 * torch.randn(state[n].shape, generator=generator)).to(state[n].dtype)
         for n in layer.parameters}
        for layer in case.map(model)
    ] * 2  # fmt: skip
    found = evaluate_variants(model, variants, data, case.task)
    expected = plain_loop(case, variants, data)
    torch.testing.assert_close(found.losses, expected[0], rtol=2e-6, atol=2e-6)
    assert torch.equal(found.correct, expected[1])


def plain_loop(case, variants, data):
    """The reference, every call on a fresh copy, with the same random state."""
    losses, correct = [], []
    for variant in variants:
        pairs = []
        for batch in data:
            twin = plain_precision(case.model().eval())
            torch.manual_seed(0)
            with warnings.catch_warnings():  # re-entrant checkpointing without gradients warns
                warnings.simplefilter("ignore", UserWarning)
                found = reference.evaluate(twin, [variant], [batch], case.task)
            pairs.append((found[0][0], found[1][0]))
        losses.append(torch.cat([a for a, _ in pairs]))
        correct.append(torch.cat([b for _, b in pairs]))
    return torch.stack(losses), torch.stack(correct)


UNSTABLE = ("own generator", "counting", "plain statistic", "renormalised")
"""Whose plain passes depend on the passes before, so that the twin would need care of its own."""


@pytest.mark.parametrize(
    "case", [c for c in AWKWARD if c.name not in UNSTABLE], ids=lambda case: case.name
)
def test_predictiveness_is_that_of_one_pass_per_layer(case):
    model, batch = plain_precision(case.model().eval()), case.batch(3)
    layers = differentiable(case.map(model))
    probe = GradientPredictiveness(batches=2, learning_rate=0.1)
    before = {n: t.clone() for n, t in unique_state(model).items()}
    here = Moment(0, before, model=case.model().eval(), task=case.task, batch=batch)
    found = probe.measure(here, layers)
    n = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0]) // 2
    cut = [rows(batch, 0, n), rows(batch, n, 2 * n)]
    names = [list(layer.parameters) for layer in layers]

    def loss(model, batch):
        return case.task.loss(case.task.forward(model, batch), batch)

    expected = np.nan_to_num(slow.data(model, loss, names, cut))
    np.testing.assert_allclose(found["data"], expected, atol=1e-5)
    each = []
    for part in cut:
        stepped = {n: t.clone() for n, t in before.items()}
        for name in (n for n, p in model.named_parameters() if p.requires_grad and p.numel()):
            g = torch.from_numpy(slow.gradient(model, loss, [name], part))
            into = stepped[name]
            into = torch.view_as_real(into) if into.is_complex() else into
            into -= 0.1 * g.to(into.dtype).view(into.shape)
        each.append(np.nan_to_num(slow.parameters(model, loss, names, before, stepped, [part])))
    np.testing.assert_allclose(found["parameters"], np.mean(each, 0), atol=1e-5)


@ALL
def test_the_model_is_left_as_found(case):
    model = case.model().train()
    batch = case.batch(0)
    case.task.loss(case.task.forward(model, batch), batch).backward()
    model.zero_grad()
    attributes = [dict(vars(module)) for module in model.modules()]
    generator = getattr(model, "generator", None)
    drawn = generator.get_state() if generator is not None else None
    before = copy.deepcopy({n: t for n, t in unique_state(model).items()})
    layers = case.map(model)
    evaluate_variants(model, [{}], [batch], case.task)
    here = Moment(0, unique_state(model), model=model, task=case.task, batch=batch)
    for probe in (GradientMagnitude(), GradientPredictiveness(batches=2, learning_rate=0.1)):
        probe.measure(here, layers)
    for found, module in zip(attributes, model.modules(), strict=True):
        assert vars(module).keys() == found.keys()
        assert all(vars(module)[k] is v for k, v in found.items())
    assert all(torch.equal(before[n], t) for n, t in unique_state(model).items())
    assert generator is None or torch.equal(generator.get_state(), drawn)
    counts = [getattr(model, "seen", None), getattr(getattr(model, "state", None), "calls", 1)]
    assert counts in ([None, 1], [[8], 1])
    if case.name in ("two names", "plain statistic", "counting", "listed", "branching"):
        assert saved(copy.deepcopy(model))


def test_a_module_of_two_names_still_trains_after_a_gradient_was_measured(tmp_path):
    class Loss(torch.nn.Module):
        """Holds the network a second time."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, y):
            return torch.nn.functional.cross_entropy(self.network(x), y)

    torch.manual_seed(0)
    model = TwoNames()
    model.loss = Loss(torch.nn.Sequential(model.first, model.s, model.last))
    case_batch = FCN.batch(0)
    here = Moment(0, unique_state(model), model=model, task=CLASSIFY, batch=case_batch)
    from layerscope.networks.layers import LayerMap

    layers = LayerMap.from_model(model, case_batch[0])
    GradientMagnitude().measure(here, layers)
    assert isinstance(model.s.weight, torch.nn.Parameter)
    assert model.s.weight is model.again.weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.s.weight.detach().clone()
    model.loss(*case_batch).backward()
    optimizer.step()
    assert not torch.equal(model.s.weight, before)


@pytest.mark.parametrize(
    ("name", "reason"),
    {
        "branching": "control flow depends on values",
        "own generator": "draws random numbers",
        "listed": "outside the module that owns it",
    }.items(),
)
def test_the_log_says_that_and_why_a_model_runs_plainly(name, reason, caplog):
    case = NAMES[name]
    with caplog.at_level(logging.WARNING, "layerscope"):
        model = case.model()
        for _ in range(2):
            evaluate_variants(model, [{}], [case.batch(0)], case.task)
    messages = [r.message for r in caplog.records if "plain calls" in r.message]
    assert len(messages) == 1
    assert type(model).__name__ in messages[0]
    assert reason in messages[0]


@pytest.mark.parametrize("name", ["straight-through", "partly stopped"])
def test_derivatives_that_are_not_those_of_the_operators_are_noticed(name, caplog):
    case = NAMES[name]
    model, batch = case.model(), case.batch(0)
    groups = [tuple(layer.parameters) for layer in case.map(model)]
    state = {n: t.clone() for n, t in unique_state(model).items()}
    caplog.set_level(logging.WARNING, "layerscope")
    with shared_loss(model, groups, batch, case.task) as loss:
        value, leaves = loss({n: state[n] for n in groups[0]})
        found = gradients(value, leaves)
    twin = copy.deepcopy(model).eval()
    case.task.loss(case.task.forward(twin, batch), batch).backward()
    for slope, n in zip(found, groups[0], strict=True):
        torch.testing.assert_close(slope, twin.get_parameter(n).grad)
    assert any("plain" in record.message for record in caplog.records)


# The graph of a model is traced once


def test_a_model_is_traced_once_for_all_moments_and_layers(monkeypatch):
    traces = []
    trace = tracing.trace
    monkeypatch.setattr(tracing, "trace", lambda *a: traces.append(1) or trace(*a))
    model, batch = FCN.model(), FCN.batch(0)
    layers = FCN.map(model)
    for step in range(3):
        weights = {n: t + step for n, t in unique_state(model).items()}
        here = Moment(step, weights, model=model, task=FCN.task, batch=batch, learning_rate=0.1)
        GradientPredictiveness(batches=2).measure(here, layers)
    assert len(traces) == 1  # two batches of one shape


class Switched(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.last = torch.nn.Linear(8, 3)
        self.options = {"factor": 1.0}
        self.offset = torch.zeros(8)
        self.register_buffer("shift", torch.zeros(8), persistent=False)

    def forward(self, x):
        hidden = torch.tanh(self.options["factor"] * self.first(x) + self.offset + self.shift)
        return self.last(hidden)


CHANGES = {
    "a plain value": lambda m: m.options.update(factor=3.0),
    "a plain tensor": lambda m: setattr(m, "offset", torch.ones(8)),
    "a plain tensor in place": lambda m: m.offset.add_(1),
    "a buffer that is not kept": lambda m: m.shift.add_(1),
    "a module": lambda m: setattr(m, "last", torch.nn.Linear(8, 3)),
    "a hook": lambda m: m.first.register_forward_hook(lambda *a: 2 * a[-1]),
    "forward": lambda m: setattr(m, "forward", lambda x: m.last(torch.sin(m.first(x)))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_graph_is_not_used_after_the_model_was_changed(change):
    torch.manual_seed(0)
    model, batch = Switched(), FCN.batch(0)
    first = evaluate_variants(model, [{}], [batch], CLASSIFY).losses
    torch.manual_seed(1)
    change(model)
    again = evaluate_variants(model, [{}], [batch], CLASSIFY).losses
    with torch.no_grad():
        expected = CLASSIFY.losses(model(batch[0]), batch)
    torch.testing.assert_close(again[0], expected.double())
    assert not torch.allclose(again, first)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graphs_do_not_keep_a_model_alive(case):
    import gc
    import weakref

    model = case.model()
    evaluate_variants(model, [{}], [case.batch(0)], case.task)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_isolated_lets_a_model_hold_other_weights_everywhere():
    case = NAMES["listed"]
    model, other = case.model(), case.model(seed=1)
    with isolated(model, weights=unique_state(other)), torch.no_grad():
        found = model(case.batch(0)[0])
    torch.testing.assert_close(found, other(case.batch(0)[0]))


@pytest.mark.parametrize("wrap", DERIVED.values(), ids=DERIVED)
def test_derived_weights_follow_what_defines_them(wrap):
    case = next(c for c in AWKWARD if c.name in DERIVED and DERIVED[c.name] is wrap)
    model, other = case.model(), case.model(seed=1)
    with isolated(model, weights=unique_state(other)), torch.no_grad():
        found = model(case.batch(0)[0])
    torch.testing.assert_close(found, other.eval()(case.batch(0)[0]))
