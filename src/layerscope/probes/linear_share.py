"""How linear every activation function, layer or block is on the data that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import check_choice, unknown
from layerscope.figures.figure import Figure, Heatmap, Lines, Reference
from layerscope.functional.linearity import NORMAL_RECTIFIER, affine_share, affinity_score
from layerscope.networks.isolation import isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.linear_maps import Fit, around, find_windows, fit_of
from layerscope.networks.names import named_modules, unwrap
from layerscope.networks.sites import Site
from layerscope.networks.task import first_examples
from layerscope.probes.at_sites import find, measured_at
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, blank, over_time

Of = Literal["sites", "layers", "inside"]


@dataclass(frozen=True)
class LinearShare(MomentProbe):
    r"""Share of every activation's, or every layer's, output that an affine map explains.

    ``of="sites"``: the rows are the sites where activation functions act, in order of execution.

    * ``linear_share``: mean over nodes (channels, units) of :math:`R^2` of the best straight line
      from a node's input to its output, over samples and places; 1 where nodes do not switch.
    * ``affinity``: affinity score :math:`1 - \sqrt{W_2^2(T X, Y) / (2\,\mathrm{tr}\,\Sigma_Y)}` of
      the samples X that enter and Y that leave, averaged over places, T the affine optimal
      transport between their Gaussian approximations (Bouniot et al., "From Alexnet to
      Transformers", CVPR 2025).

    ``of="layers"``: the rows are the layers.

    * ``linear_share``: :math:`R^2` on held-out examples of the affine map of least squares from
      what enters a layer to what leaves it, fitted to the first half of the samples with a ridge by
      generalised cross-validation (`layerscope.functional.linearity`). Convolutions by place: from
      the window on which a place depends. Transformers by position.

    ``of="inside"``: the same without the residual stream, to what leaves less what entered, for
    layers that keep the shape. With the stream almost everything looks linear.

    A layer whose map would need more samples is missing, and says how many it needs.

    Attributes:
        of: ``"sites"``, ``"layers"`` or ``"inside"``.
        samples: Examples of the run's fixed batch that pass; all of it where it has fewer.
        mode: ``"eval"`` or ``"train"``: the mode in which the model runs.
    """

    of: Of = "sites"
    samples: int = 500
    mode: Literal["eval", "train"] = "eval"

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "R^2 of affine fits; affinity score, Bouniot et al. 2025"
    summary: ClassVar[str] = "share of each activation or layer that an affine map explains"
    heading: ClassVar[str] = "How linear each activation or layer acts"
    place: ClassVar[int] = 114

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise unknown("of of LinearShare", str(self.of), get_args(Of))
        check_choice("mode of LinearShare", self.mode, ("eval", "train"))

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``linear_share`` and, of sites, ``affinity``."""
        share = {"linear_share": Variable("linear share R\N{SUPERSCRIPT TWO}")}
        return share | ({"affinity": Variable("affinity score")} if self.of == "sites" else {})

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The sites where activation functions act, or the layers."""
        return find(moment, layers, self.samples) if self.of == "sites" else layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Linear shares at this moment."""
        if self.of == "sites":
            return measured_at(moment, layers, self.samples, self.mode == "train", _of_site)
        return self._of_layers(moment, layers)

    def _of_layers(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        model, batch = unwrap(moment.model), first_examples(moment.batch, self.samples)
        known = dict(named_modules(model))
        names = [name for name in layers.names if name in known]
        windows = find_windows(model, batch, moment.task, names, moment.weights)
        found: dict[str, Fit] = {}

        def see(name: str, run: Callable[[Tensor], Any], input: Tensor) -> Any:
            before = input.clone()  # the layer may work in place
            output = run(input)
            if name not in found:
                found[name] = fit_of(before, output, windows.get(name), self.of == "inside")
            return output

        inside = isolated(model, self.mode == "train", weights=moment.weights)
        with inside, torch.no_grad(), around(model, names, see):
            moment.task.forward(model, batch)
        gone = Fit("is no module that maps a tensor to one")
        fits = {name: found.get(name, gone) for name in layers.names}
        moment.missing.update({name: fit.reason for name, fit in fits.items() if fit.reason})
        shares = torch.tensor([fit.share for fit in fits.values()], dtype=torch.float64)
        return {"linear_share": blank(shares, layers, moment.missing)}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """The share over depth and time, as colours and as lines; of sites the affinity, too."""
        share, x = over_time(dataset["linear_share"])
        title, caption = TEXTS[self.of]
        marks, beside = [Reference(1.0, "linear")], ""
        if self.of == "sites" and all(str(kind) == "ReLU" for kind in dataset["kind"].values):
            marks.append(Reference(NORMAL_RECTIFIER, "rectifier"))
            beside = ", beside that of a rectifier of normal values about 0"
        found: list[Figure] = [
            Heatmap(share, self.slug, title, f"{caption} 1 is linear.", x=x),
            Lines(
                share,
                f"{self.slug}-lines",
                f"{title}, over time",
                f"The same share as lines{beside}.",
                x=x,
                references=tuple(marks),
            ),
        ]
        if "affinity" in dataset:
            values, _ = over_time(dataset["affinity"])
            found.append(
                Lines(
                    values,
                    f"{self.slug}-affinity",
                    "Affinity score",
                    "1 where affine optimal transport brings what enters to what leaves. A "
                    "rectifier of normal values about 0 has 0.62, and more where nodes are many "
                    "for the samples.",
                    x=x,
                )
            )
        return found


TEXTS: Mapping[Of, tuple[str, str]] = {
    "sites": (
        "Linear share of each activation",
        "Share of the variance of what leaves each activation that a straight line in what enters "
        "explains, mean over nodes.",
    ),
    "layers": (
        "Linear share of each layer",
        "Share of the variance of what leaves each layer that an affine map of what enters "
        "explains, on held-out examples.",
    ),
    "inside": (
        "Linear share of what each layer adds",
        "Share of the variance of what each layer adds to its input that an affine map of that "
        "input explains, on held-out examples.",
    ),
}


def _of_site(site: Site, before: Tensor, after: Tensor) -> Mapping[str, float]:
    del site
    share = float(affine_share(before, after).mean())
    few = before.shape[0] < 2
    return {"linear_share": share, "affinity": torch.nan if few else affinity_score(before, after)}
