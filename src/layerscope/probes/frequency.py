"""How strongly the output of a layer answers small changes of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.networks.isolation import isolated, mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import named_modules, unwrap
from layerscope.networks.task import Task, rows
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, blank, over_time


@dataclass(frozen=True)
class ResponseFrequency(MomentProbe):
    r"""Response of a layer, block or stage to a small change of a random input.

    For inputs :math:`x \sim N(0, I)` of the shape that the layer sees on the run's fixed batch, and
    :math:`\Delta x \sim N(0, \sigma^2 I)`, with :math:`\Delta y = f(x + \Delta x) - f(x)`:

    * ``response``: :math:`E\|\Delta y\| / E\|\Delta x\|`.
    * ``relative_response``:
      :math:`(E\|\Delta y\| / E\|y\|) / (E\|\Delta x\| / E\|x\|)`, which does not depend on the
      scale of the output; the paper leaves the normaliser open.

    Norms over all entries of an example, means over examples; unitless. The model is in eval mode.
    A map with high frequencies answers a small change with a large one. Source: Section 5 and
    Fig. 7 of "Which Layer is Learning Faster?", after Xu et al., "Frequency Principle".

    Attributes:
        deviation: :math:`\sigma`, the standard deviation of the change.
        examples: How many random inputs.
        seed: Seed of inputs and changes; the same ones at every moment.
    """

    deviation: float = 0.01
    examples: int = 64
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "batch"})
    source: ClassVar[str] = "Which layer is learning faster?, Section 5"
    summary: ClassVar[str] = "response of each layer to a small change of a random input"
    heading: ClassVar[str] = "How each layer responds to small changes"
    place: ClassVar[int] = 110

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``response`` and ``relative_response``."""
        return {
            "response": Variable("response frequency"),
            "relative_response": Variable("response frequency over that of the scale"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; a value have those that are modules and map one tensor to one tensor."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Both ratios of every layer at this moment."""
        if not self.deviation > 0 or self.examples < 1:
            raise LayerscopeError(
                f"deviation is {self.deviation}, examples is {self.examples}.",
                "Both must be positive.",
            )
        model = unwrap(moment.model)
        found = torch.full((len(layers), 2), torch.nan, dtype=torch.float64)
        with isolated(model, weights=moment.weights), torch.no_grad():
            seen = _first_inputs(model, layers, moment.task, rows(moment.batch, 0, 1))
            for index, (name, given) in enumerate(seen.items()):
                both = given if isinstance(given, str) else self._ratios(name, *given)
                if isinstance(both, str):
                    moment.missing[name] = both
                else:
                    found[index] = torch.tensor(both, dtype=torch.float64)
        return {
            "response": blank(found[:, 0], layers, moment.missing),
            "relative_response": blank(found[:, 1], layers, moment.missing),
        }

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Both ratios over time."""
        found: list[Figure] = []
        titles = {"response": "Response frequency", "relative_response": "Relative response"}
        for name, title in titles.items():
            values, x = over_time(dataset[name])
            found.append(
                Lines(
                    values,
                    key=f"{self.slug}-{name}",
                    title=title,
                    caption="Change of the layer's output over the small change of its input "
                    f"(deviation {self.deviation:g}) that causes it"
                    + (", each relative to its size." if name != "response" else "."),
                    x=x,
                    log_y=True,
                )
            )
        return found

    def _ratios(self, name: str, module: nn.Module, seen: Tensor) -> tuple[float, float] | str:
        """Both ratios, or why the module has none."""
        shape = (self.examples, *seen.shape[1:])
        generator = torch.Generator().manual_seed(mixed_seed("response", self.seed, name))
        x = torch.randn(shape, generator=generator).to(seen)
        change = self.deviation * torch.randn(shape, generator=generator).to(seen)
        try:  # a module may work in place on what it is given
            y, moved = _only(module(x.clone())), _only(module(x + change))
        except Exception as error:  # of the model's own code
            first = (str(error) or type(error).__name__).splitlines()[0]
            return f"does not run on its first input alone ({first})"
        if y is None or moved is None:
            return "does not give one tensor of real numbers"
        dx, dy = _mean_norm(change), _mean_norm(moved - y)
        size = _mean_norm(y)
        relative = (dy / size) / (dx / _mean_norm(x)) if size else 0.0
        return dy / dx, relative


def _first_inputs(
    model: nn.Module, layers: LayerMap, task: Task, batch: Any
) -> dict[str, tuple[nn.Module, Tensor] | str]:
    """For every layer its module and what that is given first, or why it has none."""
    modules = {name: m for name, m in named_modules(model) if name}
    seen: dict[str, Any] = {
        name: "is not called by the model" if name in modules else "is no module of its own"
        for name in layers.names
    }

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not isinstance(seen[name], str):
            return
        real = inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point()
        fresh = (module, inputs[0].detach().clone()) if real else None
        seen[name] = fresh or "is given no tensor of real numbers"

    handles = [
        modules[name].register_forward_pre_hook(partial(note, name))
        for name in layers.names
        if name in modules
    ]
    task.forward(model, batch)
    for handle in handles:
        handle.remove()
    return seen


def _only(output: Any) -> Tensor | None:
    """The one tensor of real numbers that a module gives, alone or as the only entry of a tuple."""
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _mean_norm(values: Tensor) -> float:
    return float(values.flatten(1).double().norm(dim=1).mean())
