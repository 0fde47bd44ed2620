r"""Second moments of a layer's inputs and output gradients, their spectra and condition numbers.

The curvature of a layer with weights W is approximated by a Kronecker product,
:math:`F \approx S_x \otimes S_g` with :math:`S_x = E[x x^T]` and :math:`S_g = E[g g^T]`: second
moments, not centred. The eigenvalues of the product are all products of one eigenvalue of each.

The generalised condition number is :math:`\kappa_p = \lambda_1 / \lambda_{\lceil p d \rceil}`
with the d eigenvalues in descending order; :math:`\kappa_1` is the usual one. Of the product it is
not the product of both: Proposition 1 of the paper is about :math:`\lambda_1` and :math:`\kappa_1`
only. Nothing is ever added to eigenvalues. One that is not above
:math:`\lambda_1\, d\, \max(\epsilon_{64}, \epsilon^2)` is rounding and set to zero, with the
machine epsilons of float64 and of the rows' own type; what is divided by it is infinite.

Groups (of a grouped convolution) are blocks on the diagonal: their eigenvalues are those of all.

Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the Learning
Dynamics of DNNs", Section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.functional import krylov
from layerscope.functional.patches import Patches

WRITTEN_OUT = 2**18
"""Products of eigenvalues up to which they are sorted; of more the one asked for is searched."""
WHOLE = 128
"""Side up to which a symmetric product is computed whole, not its lower triangle by blocks."""
KEPT = 2**27
"""Numbers in the rows of a matrix too large to be made that are kept: 512 MB of float32."""
TOLERANCE = 1e-6
"""Residual of an eigenvalue that is found by products, relative to it."""

Rows = Float[Tensor, "groups rows features"] | Patches
"""Rows of numbers of several groups."""
Spectrum = Float64[Tensor, "groups features"]
"""Eigenvalues of the blocks of a matrix, descending in every block, none negative."""
Other = Float64[Tensor, "groups others"]
"""Those of another matrix of as many blocks."""


class SecondMoment:
    r"""Mean over examples of the outer products of rows, added up in float64 as they come.

    Rows are kept as they are while they are fewer than their entries: their Gram matrix is then
    the smaller one and has the same eigenvalues but for zeros. Memory grows with the square of the
    number of features, not with examples.

    Where features and rows are both more than the side of the largest matrix, `eigenvalues`
    refuses, and `largest` is found by products with the rows, as long as these are at most `KEPT`
    numbers. Of more rows only the trace is known: what bounded memory can hold of them exactly is
    the matrix itself, and without it every product would take another pass over the data.

    Args:
        most: Side of the largest matrix that is made; 0 for the trace only.
    """

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self.groups = 1
        self.features = 0
        self.examples = 0
        self._squares: Tensor | None = None  # of rows that are neither kept nor summed
        self.epsilon = torch.finfo(torch.float64).eps
        self._kept: list[Rows] = []
        self._sum: Tensor | None = None  # the lower triangle
        self._diagonal: Tensor | None = None

    def expect(self, groups: int, examples: int, features: int) -> None:
        """Count examples whose rows may follow; they are zero otherwise."""
        self.groups, self.features = groups, features
        self.examples += examples

    def add(self, rows: Rows, examples: int | None = None) -> None:
        """Add rows to every group.

        Args:
            rows: Of any floating type, as they are or as patches of images.
            examples: How many examples they are, where not one each: 0 for those that were
                expected, and for further labels of an example.
        """
        groups, n, features = rows.shape
        self.expect(groups, n if examples is None else examples, features)
        self.epsilon = max(self.epsilon, torch.finfo(rows.dtype).eps ** 2)
        if self._keeps(self._held + n):
            self._kept.append(rows if isinstance(rows, Patches) else rows.detach().clone())
            return
        parts, self._kept = [*self._kept, rows], []
        if features > self.most:
            for part in parts:
                self._squares = _squares(part) + (0 if self._squares is None else self._squares)
            return
        for part in parts:
            self._sum = _add_products(self._sum, part)

    @property
    def _held(self) -> int:
        return sum(kept.shape[1] for kept in self._kept)

    def _keeps(self, rows: int) -> bool:
        """Whether so many rows of every group are kept as they are."""
        if self._squares is not None or self._sum is not None:
            return False
        large = 0 < self.most < self.features
        few = large and self.groups * rows * self.features <= KEPT
        return few or rows <= min(self.features, self.most)

    def add_indices(self, indices: Int64[Tensor, " rows"], features: int) -> None:
        """Add rows that are unit vectors, as those that choose a row of an embedding.

        Args:
            indices: Where each is 1.
            features: Their entries.
        """
        self.expect(1, len(indices), features)
        counts = torch.bincount(indices, minlength=features).double()
        self._diagonal = counts if self._diagonal is None else self._diagonal + counts

    @property
    def _total(self) -> float:
        """Sum of the squares of all entries of all rows."""
        found = 0.0 if self._squares is None else float(self._squares)
        if self._sum is not None:
            found += float(self._sum.diagonal(dim1=1, dim2=2).sum())
        if self._diagonal is not None:
            found += float(self._diagonal.sum())
        return found + sum(float(_squares(kept)) for kept in self._kept)

    @property
    def trace(self) -> float:
        """Mean squared length of the rows, over all groups; 0 without examples."""
        return self._total / self.examples if self.examples else 0.0

    @property
    def refused(self) -> str:
        """Why there are no `eigenvalues`; empty where there are."""
        if not self.examples:
            return "there are no examples"
        if self._squares is not None or min(self.features, self._held) > self.most:
            return f"{self._size}, both above {self.most}"
        return ""

    @property
    def complete(self) -> bool:
        """Whether `largest` is known."""
        return self.examples > 0 and self._squares is None

    @property
    def _size(self) -> str:
        return f"has {self.features} features and {self.examples} rows"

    def matrix(self) -> Float64[Tensor, "groups features features"]:
        """The mean itself, written out.

        Raises:
            LayerscopeError: There are more features than the largest matrix may have.
        """
        if self.features > self.most:
            raise LayerscopeError(
                f"has {self.features} features, more than {self.most}.", "Raise most_features."
            )
        if self._diagonal is not None:
            return self._diagonal.diag()[None] / self.examples
        found = torch.zeros(self.groups, self.features, self.features, dtype=torch.float64)
        if self._sum is not None:
            found = self._sum.tril() + self._sum.tril(-1).mT
        elif self._kept:
            rows = self._rows()
            found = rows.mT @ rows
        return found / max(self.examples, 1)

    def _rows(self) -> Tensor:
        """All rows that are kept."""
        return torch.cat([_written_out(kept) for kept in self._kept], 1)

    def _smaller(self) -> Tensor | None:
        """Lower triangles with all eigenvalues but zeros: of the sum, or of a Gram matrix."""
        return _gram(self._rows()) if self._kept else self._sum

    def eigenvalues(self) -> Spectrum:
        """All eigenvalues; what is rounding is 0.

        Raises:
            DivergedError: A row was not finite.
            LayerscopeError: There are no rows, or too many features and rows.
        """
        if self.refused:
            self.check_finite()
            raise LayerscopeError(
                f"{self.refused}.", "Raise most_features, or give other examples, or fewer."
            )
        if self._diagonal is not None:
            values = self._diagonal.sort(descending=True).values[None]
        elif (matrices := self._smaller()) is not None:
            _check_finite(matrices.diagonal(dim1=1, dim2=2))
            values = _eigenvalues(matrices)
            if (others := self.features - values.shape[1]) > 0:
                values = torch.nn.functional.pad(values, (0, others))
        else:
            values = torch.zeros(self.groups, self.features, dtype=torch.float64)
        return _without_rounding(values.cpu() / self.examples, self.epsilon)

    def largest(self) -> Float64[Tensor, " groups"]:
        r"""The largest eigenvalue of every group, also where there are too many for `eigenvalues`.

        There it is found by products :math:`X^T X v / N` with the rows X, to a residual of
        `TOLERANCE` (`layerscope.functional.krylov.largest`).

        Raises:
            DivergedError: A row was not finite.
            LayerscopeError: There are no rows, or too many to be kept; or no convergence.
        """
        if self._squares is not None:
            raise LayerscopeError(
                f"{self._size}, more than {KEPT:,} numbers.", "Give fewer examples."
            )
        if not self.examples or not self.refused:
            return self.eigenvalues()[:, 0]
        self.check_finite()
        device = _written_out(self._kept[0]).device
        start = krylov.random_direction(self.features).to(device)
        found = [
            krylov.largest(partial(self._times, group), start, TOLERANCE, "a second moment")
            for group in range(self.groups)
        ]
        return torch.tensor(found, dtype=torch.float64)

    def _times(self, group: int, vector: Tensor) -> Tensor:
        """The product of a group's matrix with a vector."""
        found = torch.zeros_like(vector)
        for part in self._kept:
            rows = _written_out(part)[group]
            found += (rows @ vector) @ rows
        return found / self.examples

    def check_finite(self) -> None:
        """Refuse rows that were not finite.

        Raises:
            DivergedError: One was not.
        """
        _check_finite(torch.tensor(self._total))


def _written_out(rows: Rows) -> Tensor:
    return (rows.rows() if isinstance(rows, Patches) else rows.detach()).double()


def _squares(rows: Rows) -> Tensor:
    if isinstance(rows, Patches):
        return rows.squares()
    return rows.detach().double().square().sum()


def _add_products(total: Tensor | None, rows: Rows) -> Tensor:
    """Add the outer products of rows to the lower triangle of a sum; None for none so far."""
    if isinstance(rows, Patches) and rows.shared:
        found = rows.outer_sum()
        return found if total is None else total.add_(found)
    written = _written_out(rows)
    groups, _, features = written.shape
    if total is None:
        total = written.new_zeros(groups, features, features)
    _add_lower(total, written.mT, written)
    return total


def _gram(rows: Tensor) -> Tensor:
    """The lower triangle of products of every row with every other."""
    found = rows.new_zeros(len(rows), rows.shape[1], rows.shape[1])
    _add_lower(found, rows, rows.mT)
    return found


def _add_lower(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the lower triangle of symmetric products to matrices, and some of the other one.

    By halves: their diagonal blocks are symmetric again, and one block is not computed.
    """
    if total.shape[1] <= WHOLE:
        total.baddbmm_(left, right)
        return
    for one, a, b in zip(total, left, right, strict=True):
        _add_lower_halves(one, a, b)


def _add_lower_halves(total: Tensor, left: Tensor, right: Tensor) -> None:
    size = len(total)
    if size <= WHOLE:
        total.addmm_(left, right)
        return
    half = size // 2
    total[half:, :half].addmm_(left[half:], right[:, :half])
    _add_lower_halves(total[:half, :half], left[:half], right[:, :half])
    _add_lower_halves(total[half:, half:], left[half:], right[:, half:])


def _eigenvalues(matrices: Tensor) -> Tensor:
    """Of lower triangles, descending; on the processor, where LAPACK is the faster one."""
    return torch.linalg.eigvalsh(matrices.cpu(), UPLO="L").flip(-1)


def _check_finite(squares: Tensor) -> None:
    if not math.isfinite(float(squares.sum())):
        raise DivergedError(
            "values are not finite.", "The model has diverged: measure an earlier checkpoint."
        )


def _without_rounding(values: Spectrum, epsilon: float) -> Spectrum:
    floor = values.amax() * values.shape[1] * epsilon
    return torch.where(values > floor, values, 0.0)


class Condition(NamedTuple):
    """What a spectrum says.

    Attributes:
        largest: The largest eigenvalue.
        trace: Sum of all.
        rank: How many are not zero.
        nonzero: Largest over smallest that is not zero; infinite where all are zero.
        shares: The generalised condition number for every share asked for.
    """

    largest: float
    trace: float
    rank: int
    nonzero: float
    shares: tuple[float, ...]


def condition(values: Spectrum, shares: Sequence[float] = (0.5, 0.8, 1.0)) -> Condition:
    r"""Condition numbers of a matrix.

    Args:
        values: Its eigenvalues.
        shares: Every p of :math:`\kappa_p`, above 0 and at most 1.
    """
    flat = values.flatten().sort(descending=True).values
    positive = flat[flat > 0]
    return Condition(
        largest=float(flat[0]),
        trace=float(flat.sum()),
        rank=len(positive),
        nonzero=float(positive[0] / positive[-1]) if len(positive) else math.inf,
        shares=tuple(_ratio(float(flat[0]), float(flat[_place(p, len(flat))])) for p in shares),
    )


def kronecker_condition(
    left: Spectrum, right: Other, shares: Sequence[float] = (0.5, 0.8, 1.0)
) -> Condition:
    """`condition` of the Kronecker product of two matrices, block by block.

    Of many products none is written out: their order statistic is found by bisection, which counts
    the products that are not below a number in sorted lists.

    Args:
        left: Eigenvalues of one.
        right: Of the other, with as many groups.
        shares: As for `condition`.
    """
    ranks = (left > 0).sum(1) * (right > 0).sum(1)
    smallest = _smallest(left) * _smallest(right)
    largest = float((left[:, 0] * right[:, 0]).amax())
    total = left.numel() * right.shape[1]
    return Condition(
        largest=largest,
        trace=float((left.sum(1) * right.sum(1)).sum()),
        rank=int(ranks.sum()),
        nonzero=float(largest / smallest.amin()) if largest else math.inf,
        shares=tuple(
            _ratio(largest, kth_product(left, right, _place(p, total) + 1)) for p in shares
        ),
    )


def _smallest(values: Spectrum) -> Tensor:
    """The smallest eigenvalue of every group that is not zero; infinity where all are."""
    return torch.where(values > 0, values, math.inf).amin(1)


def _ratio(largest: float, other: float) -> float:
    return largest / other if other else math.inf


def _place(share: float, n: int) -> int:
    """Index, from 0, of eigenvalue ``ceil(share * n)``, whatever rounding does to the product."""
    return max(1, math.ceil(round(share * n, 6))) - 1


TINY = torch.finfo(torch.float64).tiny


def kth_product(left: Spectrum, right: Other, k: int) -> float:
    """The k-th largest of all products of an eigenvalue with one of the other matrix's same group.

    Args:
        left: (groups, m), descending.
        right: (groups, n), descending.
        k: From 1 to groups m n.

    Returns:
        One of the products.
    """
    total = left.numel() * right.shape[1]
    if total <= WRITTEN_OUT:
        products = (left[:, :, None] * right[:, None, :]).flatten()
        return float(products.kthvalue(total - k + 1).values)
    return _searched(left, right, k)


def _searched(left: Spectrum, right: Other, k: int) -> float:
    """`kth_product` by bisection over the bits of positive numbers, which are in their order."""
    ascending = right.flip(1).contiguous()
    n = ascending.shape[1]

    def first(bound: Tensor) -> Tensor:
        """Of every left one, where the first right one is whose product is not below a bound."""
        # A quotient that underflows to 0 would count products that are 0.
        return torch.searchsorted(ascending, (bound / left).clamp_min(TINY))

    low, high = 0, int(_bits(left[:, :1] * right[:, :1]).amax())
    while low < high:  # the largest number that k products are not below
        middle = (low + high + 1) // 2
        reached = int((n - first(_number(middle))).sum())
        low, high = (middle, high) if reached >= k else (low, middle - 1)
    if low == 0:
        return 0.0
    bound = _number(low)
    at = first(bound)
    near = torch.stack([at.clamp_max(n - 1), (at - 1).clamp_min(0)])
    products = left * torch.gather(ascending.expand(2, *ascending.shape), 2, near)
    return float(products.flatten()[(products - bound).abs().argmin()])


def _bits(numbers: Tensor) -> Tensor:
    return numbers.contiguous().view(torch.int64)


def _number(bits: int) -> Tensor:
    return torch.tensor(bits, dtype=torch.int64).view(torch.float64)
