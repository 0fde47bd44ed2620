"""What each block of a residual network adds to the function that the network computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Bars, Figure, Lines
from layerscope.functional.spectrum import mean_frequency
from layerscope.networks.capture import capture
from layerscope.networks.discovery import matching
from layerscope.networks.isolation import device_of, isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import named_modules
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe

TOLERANCE = 1e-4


@dataclass(frozen=True)
class BlockContributions(TrajectoryProbe):
    r"""Parts of a residual network's output, one per block, over a one-dimensional input.

    For :math:`z_l = z_{l-1} + T_l(z_{l-1})` and an affine read-out :math:`T(z) = W z + b` of the
    last one, the output is the sum of :math:`T(z_1)` (the first block, with what enters it and the
    bias) and :math:`W T_l(z_{l-1})` for every later block:

    * ``contribution``: each part on evenly spaced inputs between the smallest and the largest of
      the run's fixed batch, in units of the output.
    * ``range``: its largest less its smallest value, the mean over outputs.
    * ``frequency``: its mean frequency, in cycles per unit of the input, 0 for a block whose range
      is below 1e-4 of the output
      (`layerscope.functional.spectrum.mean_frequency`), the mean over outputs.

    The model is in eval mode. Source: Section 5 and Fig. 6 of "Which Layer is Learning Faster?";
    the mean frequency is beyond the paper, which judges curves by eye.

    Attributes:
        points: How many inputs.
        blocks: Pattern of the residual blocks' names.
        readout: Name of the last linear layer.
        checkpoint: Step of the weights; the last by default.
    """

    points: int = 512
    blocks: str = "blocks.*"
    readout: str = "output"
    checkpoint: int | None = None

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "batch"})
    source: ClassVar[str] = "Which layer is learning faster?, Section 5"
    summary: ClassVar[str] = "what each residual block adds to the output"
    heading: ClassVar[str] = "What each residual block adds"
    place: ClassVar[int] = 120

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; the blocks are found by name."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """The part of every block on evenly spaced inputs."""
        step = context.steps[-1] if self.checkpoint is None else self.checkpoint
        device = device_of(context.model)
        weights = dict(context.run.checkpoint(step, device))
        names = matching(context.model, [self.blocks])
        x = self._inputs(context.batch)
        like = context.batch[1]
        batch = (x.to(device), like.new_zeros((len(x), *like.shape[1:])))
        seen = capture(
            context.model,
            batch,
            context.task,
            [*names, self.readout],
            weights=weights,
            gradients=False,
        )
        parts = self._parts(context.model, weights, [seen[name] for name in names])
        total = seen[self.readout].outputs[0]
        error = float((parts.sum(0) - total).abs().max() / total.abs().max().clamp_min(1e-30))
        if not error < TOLERANCE:
            raise LayerscopeError(
                f"the parts of {', '.join(names)} do not add up to what {self.readout!r} gives: "
                f"they differ by {error:.2g} of its largest value.",
                "Only networks whose blocks add to one stream that an affine layer reads, with "
                "nothing after the last addition, have such parts.",
            )
        return self._dataset(names, x.flatten().double(), parts.cpu())

    def _inputs(self, batch: Any) -> Tensor:
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not pair or batch[0].flatten(1).shape[1] != 1:
            raise LayerscopeError(
                "contributions are drawn over an input of one number, which this run has not.",
                "Measure a regression on one variable, e.g. the sine data.",
            )
        low, high = float(batch[0].min()), float(batch[0].max())
        x = torch.linspace(low, high, self.points, dtype=batch[0].dtype)
        return x.reshape(-1, *batch[0].shape[1:])

    def _parts(self, model: nn.Module, weights: dict[str, Tensor], seen: list[Any]) -> Tensor:
        """(blocks, points, outputs)."""
        read = dict(named_modules(model))[self.readout]
        with isolated(model, weights=weights), torch.no_grad():
            first, later = seen[0].outputs[0], seen[1:]
            bias = read(torch.zeros_like(first))
            added = [read(s.outputs[0] - s.inputs[0]) - bias for s in later]
            return torch.stack([read(first), *added])

    def _dataset(self, names: list[str], x: Tensor, parts: Tensor) -> xr.Dataset:
        spacing = float(x[1] - x[0])
        blocks, _, outputs = parts.shape
        curves = parts.transpose(1, 2).reshape(blocks * outputs, -1)
        idle = curves.amax(1) - curves.amin(1) < TOLERANCE * parts.sum(0).abs().max()
        curves = curves.where(~idle[:, None], 0.0)
        frequency = mean_frequency(curves, spacing).reshape(blocks, outputs).mean(1)
        spread = (parts.amax(1) - parts.amin(1)).mean(1)
        variables: dict[str, tuple[tuple[str, ...], np.ndarray, str, str]] = {
            "contribution": (("layer", "x", "output"), parts.numpy(), "contribution", "output"),
            "range": (("layer",), spread.numpy(), "range of the contribution", "output"),
            "frequency": (
                ("layer",),
                frequency.numpy(),
                "mean frequency of the contribution",
                "cycles / unit of x",
            ),
        }
        return xr.Dataset(
            {
                name: (dims, values, {"long_name": title, "units": units, "source": self.source})
                for name, (dims, values, title, units) in variables.items()
            },
            coords={"layer": names, "x": ("x", x.numpy(), {"long_name": "x", "units": "1"})},
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """What each block adds, and how large and how fast it is."""
        return [
            Lines(
                dataset["contribution"].mean("output", keep_attrs=True),
                key=self.slug,
                title="Contributions of blocks",
                caption="What each residual block adds to the output; together they are the "
                "network's output.",
                x="x",
            ),
            Bars(
                dataset["range"],
                key=f"{self.slug}-range",
                title="Range of contributions",
                caption="Largest less smallest value of what a block adds.",
            ),
            Bars(
                dataset["frequency"],
                key=f"{self.slug}-frequency",
                title="Mean frequency of contributions",
                caption="Frequency of what a block adds, weighted by power, less its slope.",
            ),
        ]
