"""A parameter-counting generalisation bound, for the trained model and with layers reset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure
from layerscope.figures.table import Column, Table
from layerscope.functional.bounds import parameter_counting_bound
from layerscope.networks.discovery import Layer
from layerscope.networks.isolation import device_of, isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.networks.variants import evaluate_variants
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, layer_coordinates
from layerscope.probes.resets import marked

PLAIN = "nothing"


@dataclass(frozen=True)
class GeneralisationBound(TrajectoryProbe):
    r"""How much smaller a bound becomes when layers that can be reset do not count.

    A guess names layers before any data are seen: their weights are those of initialisation, so
    only the others count as learned. With rho the share of the parameters that a guess resets and
    epsilon what the joint reset adds to the error on the training data,

    .. math:: R \le \hat R_n + \varepsilon + \mathcal B((1 - \rho) m, n)

    with probability 0.95, for all K guesses together (`layerscope.functional.bounds`). The guess
    ``"nothing"`` is the trained model itself.

    A statement about two classes and networks of ReLU units: for more classes it is the paper's
    "naive parameter counting", an order of magnitude and no certificate.

    * ``share`` (guess): rho. ``rise`` (guess): epsilon. ``bound`` (guess).
    * ``plain``: the bound of the trained model alone, without a union over guesses.
    * ``risk``: share of wrong predictions on the training data.
    * ``member`` (guess, layer): which layers a guess resets.

    All are shares between 0 and 1; a bound above 1 is vacuous. Units are counted as the outputs,
    per example, of every module whose weight has two dimensions or more.

    Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?", Section 4.

    Attributes:
        guesses: Rules of joint resets, see `layerscope.probes.resets.marked`.
        delta: Probability that the bound fails.
        budget_mb: Megabytes that activations may take.
    """

    guesses: tuple[str, ...] = ("all_but_first", "two_of_three", "every_other")
    delta: float = 0.05
    budget_mb: int = 1024

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "training_data"})
    source: ClassVar[str] = "Are all layers created equal?, Section 4"
    summary: ClassVar[str] = "generalisation bound with and without layers that can be reset"
    heading: ClassVar[str] = "What resetting says about generalisation"
    place: ClassVar[int] = 60

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Reset the layers of each guess to initialisation and test on the training data."""
        device = device_of(context.model)
        initial = context.run.checkpoint(0, device)
        members = {PLAIN: (False,) * len(layers)}
        members |= {rule: marked(rule, layers) for rule in self.guesses}
        found = evaluate_variants(
            context.model,
            [{n: initial[n] for n in _names(layers, chosen)} for chosen in members.values()],
            context.training_data,
            context.task,
            weights=dict(context.run.checkpoint(context.steps[-1], device)),
            budget=self.budget_mb * 2**20,
        )
        risks = found.errors.tolist()
        units, depth = computing_units(context.model, context.task, context.training_data)
        parameters = sum(parameter.numel() for parameter in context.model.parameters())
        rows = []
        for risk, chosen in zip(risks, members.values(), strict=True):
            reset = sum(layer.n_parameters for layer in _chosen(layers, chosen))
            share, rise = reset / parameters, risk - risks[0]
            bounds = parameter_counting_bound(
                risks[0],
                rise,
                parameters,
                share,
                units,
                depth,
                found.losses.shape[1],
                self.delta,
                len(members),
            )
            rows.append((share, rise, bounds.reset, bounds.plain))
        share, rise, bound, plain = (np.array(column) for column in zip(*rows, strict=True))
        variables = {
            "share": ("guess", share, "share of parameters reset (rho)"),
            "rise": ("guess", rise, "rise of the training error (epsilon)"),
            "bound": ("guess", bound, "bound on the risk"),
            "plain": ((), plain[0], "bound on the risk of the trained model alone"),
            "risk": ((), risks[0], "training error"),
            "member": (("guess", "layer"), np.array(list(members.values())), "reset"),
        }
        return xr.Dataset(
            {
                name: (dims, values, self._attributes(long_name))
                for name, (dims, values, long_name) in variables.items()
            },
            coords=layer_coordinates(layers) | {"guess": list(members)},
            attrs={"n_examples": found.losses.shape[1], "units": units, "parameters": parameters},
        )

    def _attributes(self, name: str) -> dict[str, str]:
        return {"long_name": name, "units": "1", "source": self.source}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """A row for each guess."""
        shown = dataset[["share", "rise", "bound"]]
        names = [str(name).replace("_", " ") for name in shown["guess"].values]
        plain = float(np.mean(dataset["plain"].values))
        return [
            Table(
                shown.assign_coords(guess=names).reset_coords(drop=True),
                key=self.slug,
                title="Parameter-counting bound with layers reset",
                caption="Layers of each guess are set back to their initial weights, so that only "
                f"the others count. Bound on the risk with probability {1 - self.delta:g} for all "
                f"{len(names)} guesses together, as for two classes and ReLU units; of the trained "
                f"model alone {plain:.3f}. Above 1 a bound says nothing.",
                columns=(
                    Column("share", "parameters reset", "", ".1%"),
                    Column("rise", "rise of training error", "", ".2%"),
                    Column("bound", "bound on the risk", "", ".4f"),
                ),
                rows="guess",
            )
        ]


def _chosen(layers: LayerMap, chosen: tuple[bool, ...]) -> list[Layer]:
    return [layer for layer, yes in zip(layers, chosen, strict=True) if yes]


def _names(layers: LayerMap, chosen: tuple[bool, ...]) -> list[str]:
    return [n for layer in _chosen(layers, chosen) for n in (*layer.parameters, *layer.buffers)]


def computing_units(model: nn.Module, task: Task, data: Any) -> tuple[int, int]:
    """Units of a network and the layers they stand in.

    Args:
        model: The network, left as found.
        task: How to run it.
        data: Batches; the first one runs.

    Returns:
        Outputs per example of the modules whose weight has two dimensions or more, and how many
        such modules run.

    Raises:
        LayerscopeError: No such module runs.
    """
    counts: list[int] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            counts.append(math.prod(output.shape[1:]))  # also where it got no example

    batch = pytree.tree_map(
        lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, next(iter(data))
    )
    with isolated(model), torch.no_grad():
        for module in model.modules():  # inside, or what the hooks collect would be put back
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() >= 2:
                module.register_forward_hook(note)
        task.forward(model, batch)
    if not counts:
        raise LayerscopeError(
            f"no module of {type(model).__name__} has a weight matrix that runs.",
            "The bound counts units of linear and convolution modules.",
        )
    return sum(counts), len(counts)
