"""Scaled networks by hand: the theorems layer by layer, and an MLP in plain NumPy."""

from __future__ import annotations

import math

import numpy as np


def rectifier_network(factors):
    """Theorem 4.1: factors of what enters, the gradient at what leaves, that of the weights."""
    layers = range(len(factors))
    return (
        [math.prod(factors[i] for i in layers if i < k) for k in layers],
        [math.prod(factors[i] for i in layers if i > k) for k in layers],
        [math.prod(factors[i] for i in layers if i != k) for k in layers],
    )


def normalised_network(factors):
    """Theorem 4.2."""
    inverse = [1 / a for a in factors]
    return [1.0 for _ in factors], inverse, inverse


def perceptron(weights, x, slope, normalised):
    """What enters each layer, and gradients at what leaves it and of its weights.

    Layers are ``W x``, normalised over examples where asked for (variances have no epsilon), and
    rectified but for the last. ``slope`` is the gradient at the outputs.

    Args:
        weights: Matrices (outputs, inputs).
        x: (examples, inputs).
        slope: (examples, outputs).
        normalised: Whether each layer is.
    """
    entered, centred, deviations, rectified = [], [], [], []
    for k, weight in enumerate(weights):
        entered.append(x)
        h = x @ weight.T
        if normalised[k]:
            deviations.append(np.sqrt(np.mean((h - h.mean(0)) ** 2, 0)))
            h = (h - h.mean(0)) / deviations[-1]
        else:
            deviations.append(None)
        centred.append(h)
        last = k == len(weights) - 1
        rectified.append(np.ones_like(h) if last else (h > 0).astype(float))
        x = h * rectified[-1]
    gradients, slopes = [None] * len(weights), [None] * len(weights)
    for k in reversed(range(len(weights))):
        g = slope * rectified[k]
        if normalised[k]:
            y = centred[k]
            g = (g - g.mean(0) - y * np.mean(g * y, 0)) / deviations[k]
        gradients[k] = g
        slopes[k] = g.T @ entered[k]
        slope = g @ weights[k]
    return entered, gradients, slopes
