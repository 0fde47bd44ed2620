"""What probes of activation functions share: sites in the places of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import Layer
from layerscope.networks.isolation import isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.networks.sites import Site, find_sites, nodes_second, seeing
from layerscope.networks.task import first_examples
from layerscope.probes.base import Moment

See = Callable[[Site, Tensor, Tensor], Mapping[str, float]]


def site_rows(layers: LayerMap, sites: tuple[Site, ...], model: nn.Module) -> LayerMap:
    """Sites as rows of a measurement, each in the group of the layer behind which it acts.

    Those behind layers that were not selected are left out.

    Args:
        layers: The layers that are selected.
        sites: All sites of the model.
        model: The model, for messages.

    Raises:
        LayerscopeError: There is none, or none behind these layers.
    """
    groups = {name: layer.group for layer in layers for name in layer.modules}
    chosen = [site for site in sites if site.behind in groups or not site.behind]
    if not chosen:
        where = "behind these layers" if sites else f"in {type(model).__name__}"
        raise LayerscopeError(
            f"no activation function was found {where}.",
            "Activations are modules such as torch.nn.ReLU or functions such as torch.relu; choose "
            "other layers, or leave the probe out.",
        )
    found = [
        Layer(
            name=site.name,
            depth=site.index,
            kind=f"{site.kind}{', gate' * site.gated}{', linear' * site.linear}",
            modules=(site.module,),
            parameters={},
            group=groups.get(site.behind, ""),
        )
        for site in chosen
    ]
    return LayerMap(tuple(found))


def find(moment: Moment, layers: LayerMap, samples: int) -> LayerMap:
    """The sites of a moment's model as rows."""
    model = unwrap(moment.model)
    batch = first_examples(moment.batch, samples)
    return site_rows(layers, find_sites(model, batch, moment.task.forward), model)


def measured_at(
    moment: Moment, layers: LayerMap, samples: int, training: bool, see: See
) -> dict[str, Tensor]:
    """Numbers of every site on the first examples of the fixed batch.

    A site that the model does not reach, or where values are not finite real numbers, is missing.

    Args:
        moment: Has model, task and batch.
        layers: The sites, as `find` gives them.
        samples: Examples that pass.
        training: Mode in which the model runs.
        see: From a site, what enters and what leaves, nodes along the second dimension, to numbers
            by name. A site is missing for whose values it raises a `LayerscopeError`.

    Returns:
        One value per site and name, float64.

    Raises:
        LayerscopeError: No site has any.
    """
    model, batch = unwrap(moment.model), first_examples(moment.batch, samples)
    reasons = dict.fromkeys(layers.names, "did not run")
    seen: set[str] = set()
    found: dict[str, Mapping[str, float]] = {}

    def note(site: Site, before: Tensor, after: Tensor) -> None:
        if site.name in seen or site.name not in reasons:
            return
        seen.add(site.name)
        if not before.is_floating_point():
            reasons[site.name] = "has no real values"
            return
        try:
            found[site.name] = see(site, nodes_second(site, before), nodes_second(site, after))
        except LayerscopeError as error:
            reasons[site.name] = error.message.rstrip(".")

    with isolated(model, training, weights=moment.weights), torch.no_grad(), seeing(model, note):
        moment.task.forward(model, batch)
    if not found:
        name, reason = next(iter(reasons.items()))
        raise LayerscopeError(
            f"no activation function can be measured: {name!r} {reason}.",
            "Measure a model that reaches its activations, or leave the probe out.",
        )
    moment.missing.update({name: why for name, why in reasons.items() if name not in found})
    return {
        name: torch.tensor(
            [found.get(site, {}).get(name, torch.nan) for site in layers.names], dtype=torch.float64
        )
        for name in next(iter(found.values()))
    }
