"""Gradients at a model's outputs from which Fisher matrices are made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError, check_choice
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.task import IGNORED, Task, categorical, is_squared

Fisher = Literal["empirical", "mc", "exact"]
KINDS: tuple[Fisher, ...] = ("empirical", "mc", "exact")


def check_fisher(fisher: str) -> None:
    """Refuse what is no kind of Fisher matrix.

    Raises:
        LayerscopeError: It is none.
    """
    check_choice("kind of Fisher matrix", fisher, KINDS)


def counted(task: Task, outputs: Any, batch: Any) -> int:
    """Of how many losses the task's loss is the mean: labels that count, or examples."""
    with torch.no_grad():
        found = categorical(task, outputs, batch)
        if found is not None:
            return int((found[1] != IGNORED).sum())
        return len(task.losses(outputs, batch))


def cotangents(
    task: Task, outputs: Tensor, batch: Any, fisher: Fisher, seed: int = 0
) -> Iterator[Tensor]:
    r"""Gradients of the examples' losses at the outputs, one tensor for every label looked at.

    With :math:`v_{nk}` what the k-th has at example n, the Fisher matrix of that example with
    respect to the outputs is :math:`\sum_k v_{nk} v_{nk}^T`:

    * ``"empirical"``: one, the gradient of the loss with the label of the data;
    * ``"mc"``: one, with a label drawn from the model;
    * ``"exact"``: one per class, :math:`\sqrt{p_c}\,(p - e_c)`, where p are the model's
      probabilities; for a regression :math:`\sqrt{2 / D}\, e_d` for each of D outputs.

    An example is what has a label that counts: a place or token where every one has. Gradients are
    those of its own loss; those of the mean over N examples are N times smaller. The squared
    error, a mean over D outputs, is minus the logarithm of a normal density of variance D / 2, up
    to a constant.

    Args:
        task: What the batch means.
        outputs: What the model returned.
        batch: The batch.
        fisher: Whose labels.
        seed: Of the labels that are drawn.

    Yields:
        Tensors of the shape of the outputs, detached.

    Raises:
        LayerscopeError: The task says nothing of a distribution of labels, the outputs do not fit
            it, or there is no such kind of Fisher matrix.
    """
    check_fisher(fisher)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = outputs.detach().clone().requires_grad_(True)
        if fisher == "empirical":
            loss = task.loss(leaf, batch) * counted(task, leaf, batch)
            yield torch.autograd.grad(loss, leaf, materialize_grads=True)[0]
        elif (found := categorical(task, leaf, batch)) is not None:
            yield from _of_classes(leaf, *found, fisher, seed)
        elif is_squared(task):
            task.losses(leaf, batch)  # refuses targets that do not fit
            yield from _of_normal(leaf.detach(), fisher, seed)
        else:
            raise LayerscopeError(
                f"the task {task.name!r} does not say how labels are distributed.",
                'Use fisher="empirical", or the loss of Task.classification(), Task.regression() '
                "or Task.language_model().",
            )


def _of_classes(
    leaf: Tensor, logits: Tensor, labels: Tensor, fisher: Fisher, seed: int
) -> Iterator[Tensor]:
    """Of a cross-entropy over the second dimension of the logits."""
    last = logits.detach().movedim(1, -1)
    p = last.softmax(-1)
    for k in range(p.shape[-1] if fisher == "exact" else 1):
        if fisher == "exact":
            label, weight = torch.full(labels.shape, k, device=p.device), p[..., k].sqrt()
        else:
            label, weight = _drawn(p, seed), torch.ones_like(p[..., 0])
        hot = torch.nn.functional.one_hot(label, p.shape[-1]).to(p.dtype)
        slope = torch.where(labels != IGNORED, weight, 0.0)[..., None] * (p - hot)
        yield torch.autograd.grad(
            logits, leaf, slope.movedim(-1, 1), retain_graph=True, materialize_grads=True
        )[0]


def _drawn(p: Tensor, seed: int) -> Tensor:
    """A class for every distribution along the last dimension, the same on every device."""
    generator = torch.Generator().manual_seed(mixed_seed("labels", seed))
    flat = p.reshape(-1, p.shape[-1]).double().cpu()
    found = torch.multinomial(flat, 1, generator=generator)
    return found.reshape(p.shape[:-1]).to(p.device)


def _of_normal(outputs: Tensor, fisher: Fisher, seed: int) -> Iterator[Tensor]:
    """Of a mean squared error over all but the first dimension."""
    size = outputs[:1].numel()
    scale = math.sqrt(2 / size)
    if fisher == "mc":
        generator = torch.Generator().manual_seed(mixed_seed("labels", seed))
        noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        yield scale * noise.to(outputs)
        return
    for k in range(size):
        one = torch.zeros_like(outputs).flatten(1)
        one[:, k] = scale
        yield one.reshape(outputs.shape)
