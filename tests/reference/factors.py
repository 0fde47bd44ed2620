"""Second moments of inputs and output gradients: hooks on modules, then a loop over rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from layerscope.networks.task import Task


def seen(
    model: nn.Module, batch: Any, task: Task, names: list[str], training: bool = False
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Input and gradient of the summed loss at the output, for every call of every module."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    model.train(training)

    def hook(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            output.retain_grad()
            found[name].append((inputs[0].detach().clone(), output))
            return output.clone()

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    loss = task.losses(task.forward(model, batch), batch).sum()
    for calls in found.values():
        for _, output in calls:
            output.grad = None  # of gradients that the model asks for inside
    loss.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return {
        name: [(x, y.grad if y.grad is not None else torch.zeros_like(y)) for x, y in calls]
        for name, calls in found.items()
    }


def mean_outer(rows: Tensor) -> Tensor:
    """Mean of outer products, row by row."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for row in rows.double():
        total += torch.outer(row, row)
    return total / len(rows)


def places(images: Tensor, first: int, channels: int) -> Tensor:
    """Some channels at every place of every image, one row each."""
    rows = []
    for image in images:
        flat = image[first : first + channels].reshape(channels, -1)
        rows += [flat[:, place] for place in range(flat.shape[1])]
    return torch.stack(rows)


def patches(images: Tensor, conv: nn.Conv2d, group: int) -> Tensor:
    """What the filters of a group see at every place."""
    size = conv.in_channels // conv.groups
    own = images[:, group * size : (group + 1) * size]
    unfolded = F.unfold(own, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # type: ignore[arg-type]
    return torch.cat(list(unfolded.transpose(1, 2)))


def by_position(
    model: nn.Module, examples: list[Any], loss: Any, modules: list[nn.Module]
) -> tuple[Tensor, Tensor]:
    """What enters modules and the gradient at what leaves them: a row for each position.

    One example after the other has its own pass forward and back. An index that enters an embedding
    is a row of the unit matrix.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []
    for example in examples:
        calls: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor, calls: Any = calls) -> None:
            output.retain_grad()
            calls.append((inputs[0].detach(), output))

        handles = [module.register_forward_hook(keep) for module in modules]
        loss(model, example).backward()
        for x, y in calls:
            for position in range(y.shape[1]):
                one = x[0, position]
                entered.append(one if one.ndim else torch.eye(len(modules[0].weight))[one].to(y))  # type: ignore[arg-type]
                left.append(y.grad[0, position])  # type: ignore[index]
        for handle in handles:
            handle.remove()
        model.zero_grad()
    return torch.stack(entered), torch.stack(left)
