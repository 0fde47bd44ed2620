"""Slow, obvious twins of what probes of activations measure: hooks, copies, and plain loops."""

from __future__ import annotations

import copy

import numpy as np
import torch


def inputs_of(model, modules, batch, training=False):
    """What enters each of some modules, by name."""
    model = copy.deepcopy(model).train(training)
    seen = {}
    named = dict(model.named_modules())
    for name in modules:

        def keep(_, inputs, name=name):
            seen.setdefault(name, inputs[0].detach().clone())

        named[name].register_forward_pre_hook(keep)
    with torch.no_grad():
        model(batch[0])
    return seen


def mean_preactivation(values):
    """Mean over samples per node, then over nodes, one value after the other."""
    per_node = []
    for node in range(values.shape[1]):
        z = values[:, node].double().flatten().tolist()
        per_node.append(sum(z) / len(z))
    return sum(per_node) / len(per_node)


def shares(values):
    """Shares of nodes always on, always off and mixed."""
    counts = [0, 0, 0]
    for node in range(values.shape[1]):
        on = [z > 0 for z in values[:, node].flatten().tolist()]
        counts[0 if all(on) else 1 if not any(on) else 2] += 1
    return [count / values.shape[1] for count in counts]


class Line(torch.nn.Module):
    """The line of least squares of every channel, in place of an activation."""

    def __init__(self, before, after):
        super().__init__()
        fits = []
        for node in range(before.shape[1]):
            x, y = (t[:, node].double().flatten().numpy() for t in (before, after))
            constant = np.ptp(x) == 0
            fits.append((0.0, y.mean()) if constant else np.polyfit(x, y, 1))
        self.slopes, self.intercepts = (
            torch.tensor(np.array(f)).float() for f in zip(*fits, strict=True)
        )

    def forward(self, x):
        shape = [1, -1] + [1] * (x.ndim - 2)
        return x * self.slopes.view(shape) + self.intercepts.view(shape)


def linearised_losses(model, modules, fit_batch, data, task, cumulative=False):
    """Loss and share of errors with each activation module replaced, the model as it is first."""
    model = copy.deepcopy(model).eval()
    seen = inputs_of(model, modules, fit_batch)
    found = [evaluate(model, data, task)]
    for i, _ in enumerate(modules):
        other = copy.deepcopy(model)
        for name in modules[: i + 1] if cumulative else modules[i : i + 1]:
            activation = copy.deepcopy(model.get_submodule(name))
            after = activation(seen[name].clone())
            other.set_submodule(name, Line(seen[name], after))
        found.append(evaluate(other, data, task))
    return found


def evaluate(model, data, task):
    """Mean loss and share of wrong predictions."""
    losses, right = [], []
    with torch.no_grad():
        for batch in data:
            outputs = task.forward(model, batch)
            losses += task.losses(outputs, batch).tolist()
            right += task.correct(outputs, batch).tolist()
    return float(np.mean(losses)), 1 - float(np.mean(right))
