"""Slow, obvious twins of Fisher matrices: one forward and one backward pass per gradient."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch


def classes(outputs, batch, labels="model"):
    """For every example with a label, for every label: what its gradient is taken of."""
    found = []
    for row, own in zip(outputs, batch[1].tolist(), strict=True):
        if own != -100:
            found.append(_terms(row, own, labels))
    return found


def tokens(outputs, batch, labels="model"):
    """The same of a language model, where position t predicts token t + 1."""
    ids = batch["labels"] if "labels" in batch else batch["input_ids"]
    found = []
    for row, own in zip(outputs, ids.tolist(), strict=True):
        for t in range(len(own) - 1):
            if own[t + 1] != -100:
                found.append(_terms(row[t], own[t + 1], labels))
    return found


def squares(outputs, batch, labels="model"):
    """The same of a regression, whose labels are normal with variance D / 2."""
    found = []
    for row, target in zip(outputs, batch[1], strict=True):
        if labels == "data":
            found.append([((row - target) ** 2).mean()])
        else:
            found.append([math.sqrt(2 / row.numel()) * x for x in row.flatten()])
    return found


def _terms(logits, own, labels):
    log_p = logits.log_softmax(0)
    if labels == "data":
        return [-log_p[own]]
    return [-math.sqrt(math.exp(x.detach())) * x for x in log_p]


def sample_gradients(model, task, batch, terms, labels="model", names=None, training=False):
    """(examples, labels, parameters), in float64 as the model computes them."""

    def run():
        twin = copy.deepcopy(model).train(training)
        torch.manual_seed(0)
        return twin, terms(task.forward(twin, batch), batch, labels)

    shape = [len(row) for row in run()[1]]
    return np.array(
        [[gradient(*run(), n, k, names) for k in range(many)] for n, many in enumerate(shape)]
    )


def gradient(twin, found, n, k, names):
    """One row, by ``backward``; zeros where nothing arrives."""
    found[n][k].backward()
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    rows = []
    for name in names or dict(twin.named_parameters()):
        own = parameters[name]
        slope = torch.zeros_like(own) if own.grad is None else own.grad
        rows.append(slope.double().flatten().numpy())
    return np.concatenate(rows)


def mean_outer(gradients):
    """``1/N sum_n sum_k g g^T``."""
    total = np.zeros((gradients.shape[2],) * 2)
    for example in gradients:
        for row in example:
            total += np.outer(row, row)
    return total / len(gradients)


def spectrum(gradients, epsilon):
    """Eigenvalues of `mean_outer`, descending; what is rounding is 0."""
    values = sorted(np.linalg.eigvalsh(mean_outer(gradients)).tolist(), reverse=True)
    return [x if x > values[0] * len(values) * epsilon else 0.0 for x in values]


def condition_numbers(values, shares):
    """What `FisherSpectrum` says of descending eigenvalues, by variable."""
    positive = [x for x in values if x > 0]
    found = {"largest": values[0], "trace": sum(values), "rank": len(positive)}
    found["kappa"] = positive[0] / positive[-1] if positive else math.inf
    for share in shares:
        at = next(k for k in range(1, len(values) + 1) if k >= share * len(values) - 1e-9)
        other = values[at - 1]
        found[f"kappa_{100 * share:g}"] = values[0] / other if other > 0 else math.inf
    return found


def divergence(outputs, others, batch, terms):
    """Mean over examples of KL(p || q), of the labels that two sets of outputs stand for."""
    if terms is squares:  # normal, of variance D / 2 in each of D outputs
        return float(((outputs - others) ** 2).mean())
    if terms is tokens:
        outputs, others = outputs[:, :-1].flatten(0, 1), others[:, :-1].flatten(0, 1)
        kept = batch.get("labels", batch["input_ids"])[:, 1:].flatten() != -100
    else:
        kept = batch[1] != -100
    outputs, others = outputs[kept], others[kept]
    total = 0.0
    for p, q in zip(outputs.log_softmax(-1), others.log_softmax(-1), strict=True):
        total += float((p.exp() * (p - q)).sum())
    return total / len(outputs)
