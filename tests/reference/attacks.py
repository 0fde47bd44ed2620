"""Slow, obvious twins of the attacks: one example after the other."""

from __future__ import annotations

import torch


def gradient(loss, x):
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x), x)
    return found


def clip(x, low, high):
    return torch.minimum(torch.maximum(x, low), high)


def fgsm(losses, pixels, epsilon, bounds=(0.0, 1.0)):
    """``losses[i]`` is the loss of example i as a function of its pixels."""
    moved = [
        (x + epsilon * gradient(loss, x).sign()).clamp(*bounds)
        for loss, x in zip(losses, pixels, strict=True)
    ]
    return torch.stack(moved)


def pgd(losses, pixels, epsilon, steps, step_size, bounds=(0.0, 1.0)):
    found = []
    for loss, start in zip(losses, pixels, strict=True):
        x = start
        for _ in range(steps):
            x = x + step_size * gradient(loss, x).sign()
            x = clip(x, start - epsilon, start + epsilon).clamp(*bounds)
        found.append(x)
    return torch.stack(found)
