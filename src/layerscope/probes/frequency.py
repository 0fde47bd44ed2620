"""How strongly the output of a layer answers small changes of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.capture import capture
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.isolation import isolated, mixed_seed
from layerscope.layers import LayerMap
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time
from layerscope.task import rows


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

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``response`` and ``relative_response``."""
        return {
            "response": Variable("response frequency"),
            "relative_response": Variable("response frequency over that of the scale"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; each must be a module that maps one tensor to one tensor."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Both ratios of every layer at this moment."""
        assert moment.model is not None
        assert moment.task is not None
        if not self.deviation > 0 or self.examples < 1:
            raise LayerscopeError(
                f"deviation is {self.deviation}, examples is {self.examples}.",
                "Both must be positive.",
            )
        modules = dict(moment.model.named_modules())
        if missing := [name for name in layers.names if name not in modules]:
            raise LayerscopeError(
                f"layer {missing[0]!r} is no module, which could be given an input.",
                'Record with layers of unit="module", "block" or "stage".',
            )
        seen = capture(
            moment.model, rows(moment.batch, 0, 1), moment.task, layers.names,
            weights=moment.weights, gradients=False,
        )  # fmt: skip
        aliases = {alias: moment.weights[name] for alias, name in layers.aliases.items()}
        weights = {**moment.weights, **aliases}
        with isolated(moment.model), torch.no_grad():
            found = [
                self._ratios(modules[name], name, weights, seen[name].inputs)
                for name in layers.names
            ]
        both = torch.tensor(found, dtype=torch.float64)
        return {"response": both[:, 0], "relative_response": both[:, 1]}

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

    def _ratios(
        self, module: nn.Module, name: str, weights: Mapping[str, Tensor], seen: list[Tensor]
    ) -> tuple[float, float]:
        if not seen or not seen[0].is_floating_point():
            raise LayerscopeError(
                f"layer {name!r} is given no tensor of real numbers.",
                "Leave it out, e.g. by recording with LayerMap.from_model(..., exclude=[...]).",
            )
        shape = (self.examples, *seen[0].shape[1:])
        generator = torch.Generator().manual_seed(mixed_seed("response", self.seed, name))
        x = torch.randn(shape, generator=generator).to(seen[0])
        change = self.deviation * torch.randn(shape, generator=generator).to(seen[0])
        prefix = f"{name}."
        own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
        # A module may work in place on what it is given.
        y = torch.func.functional_call(module, own, (x.clone(),))
        moved = torch.func.functional_call(module, own, (x + change,))
        dx, dy = _mean_norm(change), _mean_norm(moved - y)
        size = _mean_norm(y)
        relative = (dy / size) / (dx / _mean_norm(x)) if size else 0.0
        return dy / dx, relative


def _mean_norm(values: Tensor) -> float:
    return float(values.flatten(1).double().norm(dim=1).mean())
