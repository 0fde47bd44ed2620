"""Slow, obvious twins of gradient predictiveness: every gradient from its own backward pass.

Chen, Yuille and Zhou, "Which Layer is Learning Faster?", Definition 4.1:
``sim(a, b) = <a, b> / (|a| |b|)``. The paper prints a norm in the numerator; since it gives the
range as [-1, 1], that is a misprint.

A layer is a list of names. Names of buffers may stand among them: they mark what the layer owns
(see `parameters`), but have no gradient.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch


def loaded(model, *states):
    """A copy of the model in eval mode, with the states loaded one after the other.

    Later states win, also where they call a tied tensor by another name; what no state names
    stays as it is in ``model``.
    """
    twin = copy.deepcopy(model).eval()
    for p in twin.parameters():
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    for state in states:
        unexpected = twin.load_state_dict(state, strict=False).unexpected_keys
        assert not unexpected, unexpected
    return twin


def gradient(model, loss, layer, batch):
    """All gradients of a layer as one float64 array; a parameter that is not used gives zeros."""
    twin = loaded(model)
    twin.zero_grad()
    loss(twin, batch).backward()
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    entries = []
    for name in layer:
        if name not in parameters:  # a buffer
            continue
        p = parameters[name]
        slope = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
        slope = torch.view_as_real(slope) if slope.is_complex() else slope
        entries.append(slope.detach().double().numpy().ravel())
    return np.concatenate(entries)


def cosine(a, b):
    """``<a, b> / (|a| |b|)``; NaN where one of them is zero."""
    length = math.sqrt((a * a).sum()) * math.sqrt((b * b).sum())
    return float((a * b).sum()) / length if length else math.nan


def mean(values):
    return sum(values) / len(values) if values else math.nan


def data(model, loss, layers, batches):
    """Predictiveness w.r.t. data, ``sim(G_l, G'_l)``, at the weights of the model.

    ``G_l`` and ``G'_l`` are the gradients on two batches; the mean is over all pairs of different
    batches, (i, j) with i < j. One NaN pair makes the layer NaN; so does a single batch.
    """
    found = []
    for layer in layers:
        gradients = [gradient(model, loss, layer, batch) for batch in batches]
        pairs = [
            cosine(gradients[i], gradients[j])
            for i in range(len(batches))
            for j in range(i + 1, len(batches))
        ]
        found.append(mean(pairs))
    return np.array(found)


def parameters(model, loss, layers, before, after, batches):
    """Predictiveness w.r.t. parameters, ``sim(G_l, G''_l)``, mean over batches.

    ``G_l`` has all weights ``before``; ``G''_l`` has what this layer names, parameters and buffers,
    ``before`` and everything else ``after``: a buffer that no layer names, or only another one,
    moves on. Both on the same batch.
    """
    found = []
    for layer in layers:
        old = loaded(model, before)
        mixed = loaded(model, after, {name: before[name] for name in layer})
        cosines = [
            cosine(gradient(old, loss, layer, batch), gradient(mixed, loss, layer, batch))
            for batch in batches
        ]
        found.append(mean(cosines))
    return np.array(found)
