"""How well conditioned the optimisation of every layer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import DivergedError, LayerscopeError, check_choice
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

MATRICES = {"_input": "S_x", "_gradient": "S_g", "": "S_x ⊗ S_g"}
"""The matrices that are looked at, by the ends of names of variables."""


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
            only the trace is measured.
        spectrum: How many of the largest eigenvalues of both factors are kept too.
        seed: Of labels that are drawn.
    """

    fisher: Fisher = "empirical"
    mode: Mode = "train"
    shares: tuple[float, ...] = (0.5, 0.8, 1.0)
    places: Places = "channels"
    most_features: int = 4096
    spectrum: int = 0
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Section 3"
    summary: ClassVar[str] = "largest eigenvalue and condition numbers of each layer's curvature"
    heading: ClassVar[str] = "How well conditioned each layer is"
    place: ClassVar[int] = 124

    def __post_init__(self) -> None:
        check_fisher(self.fisher)
        check_choice("mode of Conditioning", self.mode, MODES)
        check_choice("places", self.places, ("channels", "patches"))
        check_shares("Conditioning", self.shares)
        if self.most_features < 1 or self.spectrum < 0:
            raise LayerscopeError(
                f"Conditioning has most_features {self.most_features}, spectrum {self.spectrum}.",
                "most_features is at least 1, spectrum at least 0.",
            )

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
        """All layers; their matrices are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers."""
        return matrix_rows(moment, layers)

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
        )
        rows: list[Mapping[str, Tensor]] = []
        for name in layers.names:
            try:
                rows.append(self._numbers(found[name]) if name in found else {})
            except LayerscopeError as error:
                if isinstance(error, DivergedError):
                    raise
                moment.missing[name] = error.message.rstrip(".")
                rows.append({"trace_input": torch.tensor(found[name].input.trace)})
        return {
            name: torch.stack([row.get(name, self._none(name)) for row in rows])
            for name in self.variables
        }

    def _none(self, name: str) -> Tensor:
        shape = (self.spectrum,) if name.startswith("spectrum") else ()
        return torch.full(shape, torch.nan, dtype=torch.float64)

    def _numbers(self, factors: Factors) -> dict[str, Tensor]:
        """What is known of one matrix, by names of variables."""
        left = factors.input.eigenvalues()
        if factors.gradient is None:
            return spectrum_numbers(condition(left, self.shares), self.shares)
        right = factors.gradient.eigenvalues()
        found = spectrum_numbers(kronecker_condition(left, right, self.shares), self.shares)
        for end, values in (("_input", left), ("_gradient", right)):
            found |= spectrum_numbers(condition(values, self.shares), self.shares, end)
            if self.spectrum:
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
        how = f"{with_labels}, model in {self.mode} mode"
        found = [
            panels(
                dataset,
                {matrix: f"largest{end}" for end, matrix in MATRICES.items()},
                "largest eigenvalue",
                f"{self.slug}-largest",
                "Largest eigenvalue of each layer's curvature",
                "Largest eigenvalue of the second moment of what enters a layer, of the gradients "
                f"at what leaves it, and of their Kronecker product, on one fixed batch; {how}.",
            )
        ]
        if self.shares:
            first = kappa(self.shares[0])
            found.append(
                panels(
                    dataset,
                    {matrix: f"{first}{end}" for end, matrix in MATRICES.items()},
                    "condition number",
                    f"{self.slug}-{first.replace('_', '-')}",
                    "Condition number of each layer's curvature",
                    f"The largest eigenvalue over the one at {self.shares[0]:.0%} of all, in "
                    f"descending order; not drawn where that is 0. {how[0].upper()}{how[1:]}.",
                )
            )
        return found
