"""Inputs, outputs and output gradients of modules on one batch, the model left as found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError, unknown
from layerscope.networks.isolation import differentiable, isolated
from layerscope.networks.names import named_modules, unwrap
from layerscope.networks.task import Task


@dataclass
class Captured:
    """What one module saw, a list entry per call of the module.

    Attributes:
        inputs: First positional input.
        outputs: Output, as it was before any later in-place operation.
        output_gradients: Gradient of the batch's mean loss with respect to the output; zeros
            where the loss does not depend on it.
    """

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    output_gradients: list[Tensor] = field(default_factory=list)


def capture(
    model: nn.Module,
    batch: Any,
    task: Task,
    modules: Iterable[str],
    *,
    weights: Mapping[str, Tensor] | None = None,
    gradients: bool = True,
    training: bool = False,
) -> dict[str, Captured]:
    """Run one batch and keep what chosen modules saw.

    Hooks exist only while it runs; mode, buffers, gradients and random state of the model are
    left as found. In-place operations after a module do not change what was captured.

    Args:
        model: The module.
        batch: The batch.
        task: What it means.
        modules: Names of modules, as in ``model.named_modules()``.
        weights: Parameters and buffers to use in place of the model's own.
        gradients: Also run backward and keep output gradients.
        training: Mode in which the model runs.

    Returns:
        For every name what the module saw; lists are empty where it never ran.

    Raises:
        LayerscopeError: A name is unknown, a module's input or output is no tensor, or the model
            does not have the weights.
    """
    model = unwrap(model)
    known = dict(named_modules(model))
    found = {name: Captured() for name in modules}
    for name in found:
        if name not in known:
            raise unknown("module", name, known)
    taps: list[tuple[Captured, Tensor]] = []
    with isolated(model, training, weights=weights), torch.set_grad_enabled(gradients):
        handles = [  # inside, or what they collect would be put back
            known[name].register_forward_hook(partial(_keep, name, found[name], taps, gradients))
            for name in found
        ]
        for parameter in model.parameters():
            parameter.requires_grad_(gradients and differentiable(parameter))
        loss = task.loss(task.forward(model, batch), batch)
        for handle in handles:  # before checkpointed parts run again in the backward pass
            handle.remove()
        if gradients:
            _backward(loss, taps)
    return found


def _keep(
    name: str,
    into: Captured,
    taps: list[tuple[Captured, Tensor]],
    gradients: bool,
    module: nn.Module,
    inputs: tuple[Any, ...],
    output: Any,
) -> Tensor | None:
    del module
    if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
        raise LayerscopeError(
            f"module {name!r} does not map a tensor to a tensor.", "Capture a module inside it."
        )
    into.inputs.append(inputs[0].detach().clone())
    into.outputs.append(output.detach().clone())
    if not gradients:
        return None
    taps.append((into, output))
    # What follows works on a copy, so that an in-place operation leaves the tapped tensor alone.
    return output.clone()


def _backward(loss: Tensor, taps: list[tuple[Captured, Tensor]]) -> None:
    outputs = [output for _, output in taps if output.requires_grad]
    gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ())
    for into, output in taps:
        gradient = next(gradients) if output.requires_grad else None
        into.output_gradients.append(torch.zeros_like(output) if gradient is None else gradient)
