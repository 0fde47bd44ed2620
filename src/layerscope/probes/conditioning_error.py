"""How well the Kronecker product that stands for a layer's curvature describes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.functional import krylov
from layerscope.functional.conditioning import SecondMoment, condition, kronecker_condition
from layerscope.networks import fisher as exact
from layerscope.networks.discovery import Layer
from layerscope.networks.factors import Factors
from layerscope.networks.layers import LayerMap
from layerscope.networks.likelihood import Fisher, check_fisher
from layerscope.networks.names import every_tensor, unwrap
from layerscope.networks.task import Task, first_examples
from layerscope.probes.at_matrices import (
    MODES,
    Mode,
    matrix_rows,
    measured_at,
    of_some_layers,
    panels,
    without_block,
)
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time

HALF = 0.5
MOST = 4096
"""Features of a matrix up to which it is written out."""


@dataclass(frozen=True)
class ConditioningError(MomentProbe):
    r"""Largest eigenvalue and condition number of the Kronecker product against the exact block.

    The exact block of a matrix is :math:`F_l = \frac{1}{N} \sum_n \sum_k g_{nk} g_{nk}^T` with the
    gradients g of the examples' losses (`layerscope.networks.fisher`); what stands for it is
    :math:`K_l = T\, S_x \otimes S_g`, T the positions (or places) of an example, which would be
    F if positions, and inputs and gradients, were independent. Of a convolution inputs are patches,
    since channels alone (the paper's, and `Conditioning`'s default) make a smaller matrix.

    * ``largest_exact``, ``largest_product`` and ``largest_ratio``, product over exact;
    * ``kappa_50_exact`` and ``kappa_50_product``; infinite where half of the eigenvalues are zero,
      as where there are fewer gradients than half of the parameters;
    * ``overlap``, the cosine :math:`\langle F, K \rangle / (|F| |K|)`, which no scale changes;
    * ``explained``, :math:`1 - |F - K|^2 / |F|^2`, at most 1, below 0 where K is worse than none.

    Backward passes are shared by all layers while their gradients together are kept in memory.
    All but the largest eigenvalue need every gradient of a layer at once; for a layer that is too
    large for that, the largest one is found by products with vectors, and the others are missing.
    A matrix that is a part of a parameter, or shares it with another role, has no block of its own
    and no value; nor have scales and shifts, whose matrix in `Conditioning` is exact.

    Source: beyond Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", whose Section 3 argues that such spectra are alike.

    Attributes:
        samples: Examples of the fixed batch that are used; each is a backward pass.
        fisher: Labels of which gradients are taken; as for `Conditioning`.
        mode: Mode in which the model runs.
        seed: Of labels that are drawn.
    """

    samples: int = 64
    fisher: Fisher = "empirical"
    mode: Mode = "train"
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "beyond layer-wise conditioning analysis, Section 3"
    summary: ClassVar[str] = "how well a Kronecker product describes each layer's curvature"
    heading: ClassVar[str] = "Whether the approximation of curvature holds"
    place: ClassVar[int] = 126

    def __post_init__(self) -> None:
        check_fisher(self.fisher)
        check_choice("mode of ConditioningError", self.mode, MODES)
        if self.samples < 1:
            raise LayerscopeError(
                f"ConditioningError has samples {self.samples}.", "Samples are at least 1."
            )

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Largest eigenvalues, condition numbers, overlap and the share explained."""
        names = {
            "largest_exact": "largest eigenvalue of the exact block",
            "largest_product": "largest eigenvalue of the product",
            "largest_ratio": "largest eigenvalue, product over exact",
            "kappa_50_exact": "kappa_50 of the exact block",
            "kappa_50_product": "kappa_50 of the product",
            "overlap": "overlap of product and exact block",
            "explained": "share of the exact block explained",
        }
        return {name: Variable(text, "1", partial=True) for name, text in names.items()}

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; their matrices are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers."""
        return matrix_rows(moment, layers)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Product against exact block for every matrix at this moment."""
        batch = first_examples(moment.batch, self.samples)
        found = measured_at(
            moment,
            layers,
            training=self.mode == "train",
            most=MOST,
            fisher=self.fisher,
            places="patches",
            seed=self.seed,
            batches=[batch],
        )
        reasons = {
            layer.name: _not_compared(layer, found[layer.name], found)
            for layer in layers
            if layer.name in found and found[layer.name].gradient is not None
        }
        moment.missing.update({name: reason for name, reason in reasons.items() if reason})
        layer_of = {found[n].use.weight: n for n, reason in reasons.items() if not reason}
        rows: dict[str, Mapping[str, float]] = {}
        for weight, gradients in self._gradients(moment, batch, list(layer_of)):
            factors = found[layer_of[weight]]
            if gradients is None:
                top = self._largest(moment, batch, weight)
                product = kronecker_condition(*_spectra(factors), ()).largest
                rows[layer_of[weight]] = _largest(top, _scaled(factors) * product)
            else:
                rows[layer_of[weight]] = _compared(factors, gradients)
        values = [
            [rows.get(n, {}).get(name, math.nan) for n in layers.names] for name in self.variables
        ]
        return dict(zip(self.variables, torch.tensor(values, dtype=torch.float64), strict=True))

    def _gradients(
        self, moment: Moment, batch: Any, names: Sequence[str]
    ) -> Iterator[tuple[str, Tensor | None]]:
        """Gradients (examples, labels, parameters) of every weight, of several in one go.

        The backward passes are the same for all. Where gradients have more numbers than
        `layerscope.networks.fisher` keeps, each half of the names has its own; for a single weight
        that is too large there are none.
        """
        if not names:
            return
        try:
            every = exact.sample_gradients(*self._given(moment, batch), **self._of(moment, names))
        except exact.TooLargeError:
            if len(names) == 1:
                yield names[0], None
                return
            half = len(names) // 2
            yield from self._gradients(moment, batch, names[:half])
            yield from self._gradients(moment, batch, names[half:])
            return
        own = every_tensor(unwrap(moment.model))
        widths = [own[name].numel() * (1 + own[name].is_complex()) for name in names]
        yield from zip(names, every.split(widths, -1), strict=True)

    def _largest(self, moment: Moment, batch: Any, name: str) -> float:
        """Largest eigenvalue of a block by products with vectors."""
        with exact.fisher_product(*self._given(moment, batch), **self._of(moment, [name])) as (
            times,
            size,
        ):
            return krylov.largest(times, krylov.random_direction(size))

    def _given(self, moment: Moment, batch: Any) -> tuple[nn.Module, Any, Task, Fisher]:
        return moment.model, batch, moment.task, self.fisher

    def _of(self, moment: Moment, names: Sequence[str]) -> exact.Options:
        training, weights = self.mode == "train", moment.weights
        return {"names": names, "weights": weights, "training": training, "seed": self.seed}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Both largest eigenvalues, and the overlap, over time."""
        overlap, x = over_time(dataset["overlap"])
        how = f"on {self.samples} examples, {self.fisher} labels, model in {self.mode} mode"
        return [
            panels(
                dataset,
                {"exact block": "largest_exact", "Kronecker product": "largest_product"},
                "largest eigenvalue",
                f"{self.slug}-largest",
                "Largest eigenvalue, exact and approximated",
                "Largest eigenvalue of each layer's block of the Fisher matrix and of the "
                f"Kronecker product that stands for it, {how}.",
            ),
            Lines(
                of_some_layers(overlap),
                key=f"{self.slug}-overlap",
                title="How alike the approximation and the exact block are",
                caption="Cosine between the Kronecker product and each layer's exact block, as "
                f"vectors of their entries, {how}: 1 is the same up to a factor.",
                x=x,
            ),
        ]


def _not_compared(layer: Layer, factors: Factors, found: Mapping[str, Factors]) -> str:
    """Why a matrix has no block to be compared with; empty where it has one."""
    use = factors.use
    if reason := without_block(layer, use, [one.use for one in found.values()]):
        return reason
    assert factors.gradient is not None
    if use.kind == "convolution" and not use.inputs:
        return "is a transposed convolution, whose patches are not known"
    if max(factors.input.features, factors.gradient.features) > MOST:
        return f"has more than {MOST} features"
    return ""


def _scaled(factors: Factors) -> float:
    """T, positions of an example."""
    assert factors.gradient is not None
    return factors.gradient.examples / factors.losses


def _spectra(factors: Factors) -> tuple[Tensor, Tensor]:
    assert factors.gradient is not None
    return factors.input.eigenvalues(), factors.gradient.eigenvalues()


def _largest(top: float, product: float) -> dict[str, float]:
    """What needs no more than the largest eigenvalues."""
    ratio = product / top if top else math.nan
    return {"largest_exact": top, "largest_product": product, "largest_ratio": ratio}


def _compared(factors: Factors, gradients: Tensor) -> dict[str, float]:
    """Everything, from all gradients (examples, labels, parameters) of one matrix."""
    assert factors.gradient is not None
    x, g, scale = factors.input.matrix(), factors.gradient.matrix(), _scaled(factors)
    rows = gradients.flatten(0, 1)
    block = SecondMoment(exact.LARGEST)
    block.add(rows[None], len(gradients))
    block.epsilon = factors.gradient.epsilon
    values = block.eigenvalues()
    left, right = _spectra(factors)
    found = condition(values, (HALF,))
    product = kronecker_condition(left, right, (HALF,))
    groups, inputs, outputs = len(x), x.shape[1], g.shape[1]
    apart = rows.unflatten(
        1, (groups, outputs, inputs) if factors.use.inputs else (inputs, outputs)
    )
    apart = apart if factors.use.inputs else apart.mT[:, None]
    along = torch.einsum("ngoi,gop,ngpj,gji->", apart, g.to(rows), apart, x.to(rows))
    inner = scale * float(along) / len(gradients)
    exact_square, square = float(values.square().sum()), scale**2 * _squares(left, right)
    return _largest(found.largest, scale * product.largest) | {
        "kappa_50_exact": found.shares[0],
        "kappa_50_product": product.shares[0],
        "overlap": inner / math.sqrt(exact_square * square) if exact_square * square else math.nan,
        "explained": (2 * inner - square) / exact_square if exact_square else math.nan,
    }


def _squares(left: Tensor, right: Tensor) -> float:
    """Squared Frobenius norm of a Kronecker product, block by block."""
    return float((left.square().sum(1) * right.square().sum(1)).sum())
