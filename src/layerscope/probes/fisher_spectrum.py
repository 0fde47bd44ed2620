"""Spectra of Fisher matrices without an approximation, layer by layer or of a whole network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.conditioning import condition
from layerscope.networks.discovery import Layer
from layerscope.networks.fisher import TooLargeError, block_moments
from layerscope.networks.layers import LayerMap
from layerscope.networks.likelihood import Fisher, check_fisher
from layerscope.networks.task import first_examples
from layerscope.probes.at_matrices import (
    MODES,
    Mode,
    check_shares,
    kappa,
    matrix_rows,
    on_logarithmic_axes,
    spectrum_numbers,
    spectrum_variables,
    uses_at,
    without_block,
)
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time

NETWORK = "network"
"""The row of all matrices together."""
MOMENT = "second moment of sample gradients"


@dataclass(frozen=True)
class FisherSpectrum(MomentProbe):
    r"""Largest eigenvalue and condition numbers of exact blocks of the Fisher matrix.

    The block of a matrix with D entries is the D x D matrix

    .. math:: F_l = \frac{1}{N} \sum_n \sum_k g_{nk} g_{nk}^T

    with the gradients g of the examples' losses with respect to it (`layerscope.networks.fisher`);
    with the labels of the data it is M, the second moment of sample gradients. Nothing is assumed
    and nothing left out, which `Conditioning` does to be cheap: for small networks. Variables are
    those of `Conditioning` for one matrix:

    * ``largest``, ``trace``, and ``rank``, the number of eigenvalues that are not zero;
    * ``kappa``: the condition number over the eigenvalues that are not zero;
    * ``kappa_50`` and so on: :math:`\kappa_p = \lambda_1 / \lambda_{\lceil p D \rceil}`, infinite
      where that eigenvalue is zero, as where there are fewer gradients than p D: N of them, times
      the number of classes for ``"exact"``.

    The whole network's matrix holds what couples its matrices, too. Biases and the affine parts of
    normalisations are left out. A matrix that is a part of a parameter, or shares it with another
    role, has no block of its own and no value, nor has one whose block is larger than
    `layerscope.networks.fisher.LARGEST` on both sides, parameters and gradients. In the whole
    network a shared parameter counts once, and one from which a matrix is derived not at all.

    Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", Section 3 and Appendix B.

    Attributes:
        samples: Examples of the fixed batch that are used; each is a backward pass, for
            ``"exact"`` one per class.
        fisher: Labels of which gradients are taken: ``"exact"``, all classes in turn; ``"mc"``,
            drawn from the model; ``"empirical"``, those of the data.
        mode: Mode in which the model runs; ``"train"`` as in the paper.
        shares: Every p of :math:`\kappa_p`.
        whole: Whether there is one row, ``network``, of the matrices of all layers together.
        seed: Of labels that are drawn.
    """

    samples: int = 512
    fisher: Fisher = "exact"
    mode: Mode = "train"
    shares: tuple[float, ...] = (0.5, 0.8, 1.0)
    whole: bool = False
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Section 3"
    summary: ClassVar[str] = "exact spectrum of each layer's, or a small network's, Fisher matrix"
    heading: ClassVar[str] = "How well conditioned the exact Fisher matrix is"
    place: ClassVar[int] = 127

    def __post_init__(self) -> None:
        check_fisher(self.fisher)
        check_choice("mode of FisherSpectrum", self.mode, MODES)
        check_shares("FisherSpectrum", self.shares)
        if self.samples < 1:
            raise LayerscopeError(
                f"FisherSpectrum has samples {self.samples}.", "Samples are at least 1."
            )

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Five kinds of numbers of every matrix."""
        return spectrum_variables(f"the {self._matrix}", self.shares)

    @property
    def _matrix(self) -> str:
        return MOMENT if self.fisher == "empirical" else "Fisher matrix"

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; their matrices are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers, or all of them as one."""
        matrices = matrix_rows(moment, layers)
        return LayerMap((_together(moment, matrices),)) if self.whole else matrices

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Spectra of all blocks at this moment."""
        blocks = {layer.name: tuple(layer.parameters) for layer in layers}
        if not self.whole:
            blocks = _own_blocks(moment, layers)
        found = self._spectra(moment, blocks)
        none = torch.tensor(torch.nan, dtype=torch.float64)
        return {
            name: torch.stack([found.get(row, {}).get(name, none) for row in layers.names])
            for name in self.variables
        }

    def _spectra(
        self, moment: Moment, blocks: Mapping[str, tuple[str, ...]]
    ) -> dict[str, dict[str, Tensor]]:
        """The variables of blocks, from one pass where they fit, else from one for each that fits.

        Raises:
            TooLargeError: None fits.
        """
        batch = first_examples(moment.batch, self.samples)

        def together(names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
            made = block_moments(
                moment.model,
                batch,
                moment.task,
                self.fisher,
                blocks=[blocks[name] for name in names],
                weights=moment.weights,
                training=self.mode == "train",
                seed=self.seed,
            )
            spectra = (condition(one.eigenvalues(), self.shares) for one in made)
            numbers = (spectrum_numbers(one, self.shares) for one in spectra)
            return dict(zip(names, numbers, strict=True))

        try:
            return together(blocks)
        except TooLargeError as error:
            refusal = error
        found: dict[str, dict[str, Tensor]] = {}
        for name in blocks:
            try:
                found |= together([name])
            except TooLargeError as error:
                moment.missing[name] = f"is too large: {error.message.rstrip('.')}"
        if not found:
            raise refusal
        return found

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Largest eigenvalue and a condition number over time."""
        how = (
            f"of the {self._matrix} of {'the network' if self.whole else 'each layer'}, on "
            f"{self.samples} examples, {self.fisher} labels, model in {self.mode} mode."
        )
        found: list[Figure] = []
        shown = {"largest": "Largest eigenvalue"}
        shown |= {kappa(p): f"Condition number {kappa(p)}" for p in self.shares[:1]}
        for name, words in shown.items():
            values, x = over_time(dataset[name])
            values = on_logarithmic_axes(values)
            if values.sizes["layer"]:
                title = f"{words}, exact"
                key = f"{self.slug}-{name.replace('_', '-')}"
                found.append(Lines(values, key, title, f"{words} {how}", x=x, log_y=True))
        return found


def _own_blocks(moment: Moment, layers: LayerMap) -> dict[str, tuple[str, ...]]:
    """The parameter behind every matrix that has a block of its own.

    Raises:
        LayerscopeError: None has one.
    """
    uses = uses_at(moment, layers)
    found: dict[str, tuple[str, ...]] = {}
    for name, use in uses.items():
        if reason := without_block(layers[name], use, uses.values()):
            moment.missing[name] = reason
        else:
            found[name] = (use.weight,)
    if not found:
        name, reason = next(iter(moment.missing.items()))
        raise LayerscopeError(
            f"no matrix has a block of its own: {name!r} {reason}.",
            "Choose other layers, or leave the probe out.",
        )
    return found


def _together(moment: Moment, matrices: LayerMap) -> Layer:
    """One row of all parameters that are matrices, or parts of them are.

    Raises:
        LayerscopeError: There is none.
    """
    uses = uses_at(moment, matrices).values()
    names = {use.weight for use in uses if use.kind != "scale" and not use.owner}
    shapes = {
        name: shape
        for layer in matrices
        for name, shape in layer.parameters.items()
        if name in names
    }
    if not shapes:
        raise LayerscopeError(
            "the layers have no matrices that are parameters.",
            "Choose other layers, or leave the probe out.",
        )
    return Layer(NETWORK, 0, NETWORK, (), shapes, trained=any(layer.trained for layer in matrices))
