"""How well conditioned the optimisation of every layer is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from layerscope.config.base import LATER
from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure
from layerscope.functional.conditioning import condition, kronecker_condition
from layerscope.networks.factors import Factors, Places
from layerscope.networks.layers import LayerMap
from layerscope.networks.likelihood import Fisher, check_fisher
from layerscope.probes.at_matrices import (
    MODES,
    Mode,
    check_shares,
    kappa,
    matrix_rows,
    measured_at,
    panels,
    spectrum_numbers,
    spectrum_variables,
)
from layerscope.probes.base import Moment, MomentProbe, Need, Variable

On = Literal["batch", "test", "training"]
MATRICES = {"_input": "S_x", "_gradient": "S_g", "": "S_x ⊗ S_g"}
"""The matrices that are looked at, by the ends of names of variables."""
SCALES = "scales and shifts"
"""What stands above the panel of normalisations, whose own matrix has no factors."""


@dataclass(frozen=True)
class Conditioning(MomentProbe):
    r"""Largest eigenvalue and condition numbers of the curvature of every layer.

    The rows are the matrices of the model, in order of execution: of linear layers, convolutions,
    the projections of attention, embeddings, and the affine parts of normalisations. With x what
    enters a matrix and g the gradient of an example's loss at what leaves it,

    .. math:: S_x = E[x x^T], \quad S_g = E[g g^T], \quad F \approx S_x \otimes S_g.

    For ``S_x`` (``..._input``), ``S_g`` (``..._gradient``) and their Kronecker product:

    * ``largest``: the largest eigenvalue, steepness of the landscape with respect to the layer;
    * ``trace``, and ``rank``, the number of eigenvalues that are not zero;
    * ``kappa``: the condition number over the eigenvalues that are not zero;
    * ``kappa_50`` and so on: the generalised condition number
      :math:`\kappa_p = \lambda_1 / \lambda_{\lceil p d \rceil}`, infinite where that eigenvalue
      is zero. That of the product comes from its sorted spectrum: it is not the product of both.

    Positions of a sequence and places of an image are examples, gradients are those of one
    example's loss, moments are not centred, biases are left out, and uses of a shared matrix add;
    see `layerscope.networks.factors`. An embedding's :math:`S_x` is the diagonal of frequencies.
    A scale and shift, as of a normalisation, has its own small matrix in place of the product, and
    no factors. Nothing is added to eigenvalues; what counts as zero is said in
    `layerscope.functional.conditioning`.

    Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", Section 3.

    Attributes:
        fisher: Labels of which gradients are taken: ``"empirical"``, those of the data, as in the
            paper; ``"mc"``, drawn from the model; ``"exact"``, all classes in turn.
        mode: Mode in which the model runs; ``"train"`` as in the paper.
        shares: Every p of :math:`\kappa_p`.
        places: What enters a convolution: its ``"channels"`` at every place, as in the paper, or
            the ``"patches"`` that the filter sees.
        most_features: Largest side of a matrix that is made. Where features and examples are more,
            condition numbers are refused, and the largest eigenvalue is found by products with the
            examples as long as these are few enough (`SecondMoment`).
        spectrum: How many of the largest eigenvalues of both factors are kept too.
        seed: Of labels that are drawn.
        on: The fixed ``"batch"``; or, for runs that are finished, all of the ``"test"`` or
            ``"training"`` data, as they are without augmentation. Moments are added up batch by
            batch, so that memory does not grow with the data.
        layers: Patterns of the layers whose matrices are measured; all by default. The others cost
            no more than the passes through the model.
    """

    fisher: Fisher = "empirical"
    mode: Mode = "train"
    shares: tuple[float, ...] = (0.5, 0.8, 1.0)
    places: Places = "channels"
    most_features: int = 4096
    spectrum: int = 0
    seed: int = 0
    on: On = field(default="batch", metadata={LATER: True})
    layers: tuple[str, ...] = field(default=(), metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Section 3"
    summary: ClassVar[str] = "largest eigenvalue and condition numbers of each layer's curvature"
    heading: ClassVar[str] = "How well conditioned each layer is"
    place: ClassVar[int] = 124

    def __post_init__(self) -> None:
        check_fisher(self.fisher)
        check_choice("mode of Conditioning", self.mode, MODES)
        check_choice("places", self.places, ("channels", "patches"))
        check_choice("on of Conditioning", self.on, get_args(On))
        check_shares("Conditioning", self.shares)
        if self.most_features < 1 or self.spectrum < 0:
            raise LayerscopeError(
                f"Conditioning has most_features {self.most_features}, spectrum {self.spectrum}.",
                "most_features is at least 1, spectrum at least 0.",
            )

    @property
    def needed(self) -> frozenset[Need]:
        """Model, task, and what it runs on."""
        own: Mapping[On, Need] = {"batch": "batch", "test": "data", "training": "training_data"}
        return frozenset({*self.needs, own[self.on]})

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Five kinds of numbers of three matrices, and their spectra where they are asked for."""
        found: dict[str, Variable] = {}
        for end, matrix in MATRICES.items():
            found |= spectrum_variables(matrix, self.shares, end)
            if self.spectrum and end:
                dims = ("layer", "eigenvalue")
                found[f"spectrum{end}"] = Variable(f"eigenvalues of {matrix}", "", dims, True)
        return found

    def select(self, layers: LayerMap) -> LayerMap:
        """The layers whose matrices are measured."""
        return layers.only(self.layers) if self.layers else layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers."""
        return matrix_rows(moment, layers, self._first(moment))

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Spectra of every matrix at this moment."""
        found = measured_at(
            moment,
            layers,
            fisher=self.fisher,
            training=self.mode == "train",
            places=self.places,
            most=self.most_features,
            seed=self.seed,
            batches=self._batches(moment),
        )
        rows: list[Mapping[str, Tensor]] = []
        for name in layers.names:
            numbers, reason = self._numbers(found[name]) if name in found else ({}, "")
            if reason:
                moment.missing[name] = reason
            rows.append(numbers)
        return {
            name: torch.stack([row.get(name, self._none(name)) for row in rows])
            for name in self.variables
        }

    def _none(self, name: str) -> Tensor:
        shape = (self.spectrum,) if name.startswith("spectrum") else ()
        return torch.full(shape, torch.nan, dtype=torch.float64)

    def _batches(self, moment: Moment) -> Iterable[Any]:
        if self.on == "batch":
            return [moment.batch]
        return moment.data if self.on == "test" else moment.training_data

    def _first(self, moment: Moment) -> Any:
        for batch in self._batches(moment):
            return batch
        raise LayerscopeError(f"the {self.on} data have no batches.", "Give some.")

    def _numbers(self, factors: Factors) -> tuple[dict[str, Tensor], str]:
        """What is known of one matrix, by names of variables; and why not all is."""
        sides = {"": factors.input}
        if factors.gradient is not None:
            sides = {"_input": factors.input, "_gradient": factors.gradient}
        found, spectra, largest = dict[str, Tensor](), list[Tensor](), list[Tensor]()
        for end, one in sides.items():
            if not one.refused:
                spectra.append(one.eigenvalues())
                largest.append(spectra[-1][:, 0])
                found |= self._of_spectrum(end, spectra[-1])
                continue
            one.check_finite()
            found[f"trace{end}"] = _number(one.trace)
            if one.complete:
                largest.append(one.largest())
                found[f"largest{end}"] = largest[-1].amax()
        if len(spectra) == 2:
            found |= spectrum_numbers(
                kronecker_condition(spectra[0], spectra[1], self.shares), self.shares
            )
        elif len(largest) == 2:
            found["largest"] = (largest[0] * largest[1]).amax()
        return found, next((one.refused for one in sides.values() if one.refused), "")

    def _of_spectrum(self, end: str, values: Tensor) -> dict[str, Tensor]:
        """What is known of one factor."""
        found = spectrum_numbers(condition(values, self.shares), self.shares, end)
        if self.spectrum and end:
            top = values.flatten().sort(descending=True).values[: self.spectrum]
            kept = self._none(f"spectrum{end}")
            kept[: len(top)] = top
            found[f"spectrum{end}"] = kept
        return found

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Largest eigenvalues over time, and a condition number."""
        with_labels = (
            "labels of the data" if self.fisher == "empirical" else f"{self.fisher} Fisher"
        )
        has_scales = bool((dataset["kind"] == "scale").any())
        note = " Scales and shifts are those of normalisations." if has_scales else ""
        data = "one fixed batch" if self.on == "batch" else f"the {self.on} data"
        how = f"{with_labels}, model in {self.mode} mode"
        found = [
            panels(
                *_apart(dataset, "largest"),
                "largest eigenvalue",
                f"{self.slug}-largest",
                "Largest eigenvalue of each layer's curvature",
                "Largest eigenvalue of S_x, the second moment of what enters a layer, of S_g, that "
                f"of the gradients at what leaves it, and of their Kronecker product. On {data}; "
                f"{how}.{note}",
            )
        ]
        if self.shares:
            first = kappa(self.shares[0])
            found.append(
                panels(
                    *_apart(dataset, first),
                    "condition number",
                    f"{self.slug}-{first.replace('_', '-')}",
                    "Condition number of each layer's curvature",
                    f"The largest eigenvalue over the one at {self.shares[0]:.0%} of all, in "
                    f"descending order; not drawn where that is 0. On {data}; {how}.",
                )
            )
        return found


def _apart(dataset: xr.Dataset, variable: str) -> tuple[xr.Dataset, dict[str, str]]:
    """The dataset with scales apart from products, and a variable for every panel."""
    scales = dataset["kind"] == "scale"
    found = {matrix: f"{variable}{end}" for end, matrix in MATRICES.items()}
    if not scales.any():
        return dataset, found
    own = {variable: dataset[variable].where(~scales), SCALES: dataset[variable].where(scales)}
    return dataset.assign(own), found | {SCALES: SCALES}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
