"""Slow, obvious twin of gradients: a copy of the model, plain ``loss.backward()``."""

from __future__ import annotations

import copy

import numpy as np


def mean_gradients(model, task, batch, layers):
    """Mean |g| of every layer in eval mode."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    twin.zero_grad()
    task.loss(task.forward(twin, batch), batch).backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    found = []
    for layer in layers:
        entries = [
            np.zeros(shape) if gradients[name] is None else gradients[name].double().numpy()
            for name, shape in layer.parameters.items()
        ]
        found.append(np.abs(np.concatenate([entry.ravel() for entry in entries])).mean())
    return np.array(found)
