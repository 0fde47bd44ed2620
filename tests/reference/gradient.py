"""Slow, obvious twin of gradients: a copy of the model, plain ``loss.backward()``."""

from __future__ import annotations

import copy

import numpy as np


def mean_gradients(model, task, batch, layers):
    """Mean |g| of every layer in eval mode."""
    twin = copy.deepcopy(model).eval()
    for p in twin.parameters():
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    twin.zero_grad()
    task.loss(task.forward(twin, batch), batch).backward()
    gradients = {
        name: None if p.grad is None else p.grad.to_dense() for name, p in twin.named_parameters()
    }
    found = []
    for layer in layers:
        entries = [
            np.zeros(shape) if gradients[name] is None else gradients[name].abs().double().numpy()
            for name, shape in layer.parameters.items()
        ]
        found.append(np.abs(np.concatenate([entry.ravel() for entry in entries])).mean())
    return np.array(found)
