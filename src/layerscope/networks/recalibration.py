"""Running statistics of BatchNorm that fit changed weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layerscope.networks.isolation import isolated
from layerscope.networks.names import Weights, named_modules
from layerscope.networks.task import Task


def normalisations(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every BatchNorm module that keeps running statistics, by name."""
    return {
        name: module
        for name, module in named_modules(model)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def batch_statistics(
    model: nn.Module, weights: Weights, batch: Any, task: Task
) -> dict[str, Tensor]:
    """Mean and unbiased variance that reach every BatchNorm when one batch runs in train mode.

    Only the BatchNorm modules are in train mode: each normalises by the statistics of the batch,
    and what lies downstream sees the result.

    Args:
        model: A model, left as found.
        weights: Its parameters and buffers.
        batch: Examples, many enough for a mean and a variance.
        task: How to run the model.

    Returns:
        ``running_mean`` and ``running_var`` of every BatchNorm, by name.
    """
    norms = normalisations(model)
    with isolated(model, weights=weights), torch.no_grad():
        for norm in norms.values():
            norm.train()
            norm.momentum = 1.0  # the statistics become those of this batch
        task.forward(model, batch)
        return {
            f"{name}.{part}": getattr(norm, part).clone()
            for name, norm in norms.items()
            for part in ("running_mean", "running_var")
        }


def recalibrated(
    model: nn.Module, base: Weights, variants: Sequence[Weights], batch: Any, task: Task
) -> tuple[dict[str, Tensor], list[Weights]]:
    """A base and its variants, each with the statistics that one batch gives under its weights.

    A change of weights moves the statistics downstream of it and no others, so that a variant
    replaces only those that differ from the recalibrated base's.

    Args:
        model: The model.
        base: Its trained parameters and buffers.
        variants: What each variant replaces, by name.
        batch: Training examples.
        task: How to run the model.

    Returns:
        The base, recalibrated, and what each variant replaces of it.
    """
    reference = batch_statistics(model, base, batch, task)
    found: list[Weights] = []
    for variant in variants:
        moved = batch_statistics(model, {**base, **variant}, batch, task)
        kept = {n: t for n, t in variant.items() if n not in reference}
        found.append(kept | {n: t for n, t in moved.items() if not t.equal(reference[n])})
    return {**base, **reference}, found
