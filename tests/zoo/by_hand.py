"""The slow, obvious way to what probes measure: load weights, call the model, look."""

from __future__ import annotations

from typing import Any

import torch
from tests.zoo.specimen import Specimen
from torch import Tensor, nn

from layerscope.networks.layers import LayerMap
from layerscope.runs.store import Run


def loaded(specimen: Specimen, model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A twin of the model with these weights, in eval mode."""
    twin = specimen.twin(model)
    twin.load_state_dict(weights)
    return twin.eval()


def checkpoint(run: Run, step: int) -> dict[str, Tensor]:
    """A checkpoint with tied tensors under all their names, as ``load_state_dict`` wants it."""
    weights = dict(run.checkpoint(step))
    return weights | {alias: weights[name] for alias, name in run.layers.aliases.items()}


def gradient_magnitudes(specimen: Specimen, model: nn.Module, run: Run, step: int) -> list[float]:
    """Mean absolute gradient of every layer after one ``backward`` on the fixed batch."""
    twin = loaded(specimen, model, checkpoint(run, step))
    for parameter in twin.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_()
            parameter.grad = None
    batch = specimen.batch(0)
    specimen.task.loss(specimen.task.forward(twin, batch), batch).backward()
    slopes = {
        name: parameter.grad.to_dense().abs().double().sum()
        for name, parameter in twin.named_parameters()
        if parameter.grad is not None
    }
    return [
        float(sum(slopes.get(name, torch.zeros(())) for name in layer.parameters))
        / max(layer.n_parameters, 1)
        for layer in run.layers
    ]


def reset(
    specimen: Specimen, model: nn.Module, run: Run, layer: str, data: list[Any]
) -> tuple[float, float]:
    """Loss and error (per cent) with one layer as it was at checkpoint 0, the rest as trained."""
    first, weights = checkpoint(run, 0), checkpoint(run, run.steps[-1])
    names = {*run.layers[layer].parameters, *run.layers[layer].buffers}
    names |= {alias for alias, name in run.layers.aliases.items() if name in names}
    losses, right = [], []
    for batch in data:
        twin = loaded(specimen, model, weights | {name: first[name] for name in names})
        outputs = specimen.task.forward(twin, batch)
        losses.append(specimen.task.losses(outputs, batch).detach().double())
        assert specimen.task.correct is not None
        right.append(specimen.task.correct(outputs, batch).double())
    return float(torch.cat(losses).mean()), 100 - 100 * float(torch.cat(right).mean())


def some(layers: LayerMap) -> list[str]:
    """The first, the middle and the last layer."""
    names = layers.names
    return list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
