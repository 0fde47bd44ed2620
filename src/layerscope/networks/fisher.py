r"""Fisher matrices without an approximation: gradients, dense matrices, spectra, and products.

.. math:: F = \frac{1}{N} \sum_{n=1}^{N} \sum_k g_{nk} g_{nk}^T

over the N examples of a batch that count. :math:`g_{nk}` is the derivative of example n's own loss
with the k-th label with respect to the parameters, scaled as in `likelihood.cotangents`. F is the
Fisher matrix of the model's labels (``"exact"``), an unbiased estimate of it from one drawn label
per example (``"mc"``), or, with the labels of the data (``"empirical"``), the second moment M of
sample gradients, which is no Fisher matrix. An example is what has a label that counts: a place or
token where every one has; for a task of one's own, a row of the outputs.

In train mode there is one forward pass of the whole batch, with its dropout. Where batch
normalisation couples examples, :math:`g_{nk}` is the derivative of n's loss through the statistics
of the batch, and contains what other examples contribute to n's outputs; in another batch it is
another. In either mode the mean of the empirical :math:`g_n` is the gradient of the mean loss.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerscope.errors import LayerscopeError, unknown
from layerscope.functional.conditioning import SecondMoment
from layerscope.functional.krylov import Product
from layerscope.networks.isolation import differentiable, isolated, no_checkpointing
from layerscope.networks.likelihood import Fisher, cotangents, counted
from layerscope.networks.names import every_tensor, unwrap
from layerscope.networks.sharing import Subject
from layerscope.networks.task import IGNORED, Task, categorical

_log = logging.getLogger(__name__)
LARGEST = 5_000
"""Rows of the largest matrix that is written out: 200 MB of float64."""
AT_ONCE, ENTRIES = 32, 2**24
"""Backward passes that run together, and numbers in their cotangents and gradients."""


class TooLargeError(LayerscopeError):
    """A matrix has more entries than are written out."""


class Conditions(TypedDict, total=False):
    """How the model runs.

    Attributes:
        weights: Parameters and buffers to use in place of the model's own.
        training: Mode in which the model runs; eval by default.
        seed: Of the labels that are drawn; 0 by default.
    """

    weights: Mapping[str, Tensor] | None
    training: bool
    seed: int


class Options(Conditions, total=False):
    """What functions of one block of parameters take by name.

    Attributes:
        names: Parameters in the order of their columns; all by default, tied ones once.
    """

    names: Sequence[str] | None


def sample_gradients(
    model: nn.Module, batch: Any, task: Task, fisher: Fisher = "exact", **options: Unpack[Options]
) -> Tensor:
    """Gradients of every example's own loss with every label, for small networks.

    Each costs a backward pass through the whole batch; several run together where the model's
    operators allow.

    Args:
        model: Any module whose outputs are a tensor; left as found.
        batch: The batch.
        task: What it means.
        fisher: Whose labels.
        **options: See `Options`.

    Returns:
        (examples, labels, parameters) in float64; zeros for parameters that are unused,
        derivatives of frozen ones as of others, by real and imaginary part in turn where complex.

    Raises:
        LayerscopeError: A name is unknown or means a parameter that was named before, no example
            counts, the model does not run, its outputs are no tensor with a row for every loss of
            the task, the task has no labels of this kind, or the gradients have more entries than
            a matrix of `LARGEST` rows and columns.
    """
    with _evaluated(model, batch, task, fisher, **options) as here:
        return here.all_rows().unflatten(0, (here.labels, -1)).transpose(0, 1)


def fisher_exact(
    model: nn.Module, batch: Any, task: Task, fisher: Fisher = "exact", **options: Unpack[Options]
) -> Tensor:
    """The Fisher matrix of a network, or the block of some of its parameters, written out.

    Arguments and errors are those of `sample_gradients`, which are not kept.

    Returns:
        (parameters, parameters) in float64, in squared units of the loss over those of weights.

    Raises:
        LayerscopeError: There are more than `LARGEST` parameters.
    """
    with _evaluated(model, batch, task, fisher, **options) as here:
        return here.dense()


def fisher_spectrum(
    model: nn.Module, batch: Any, task: Task, fisher: Fisher = "exact", **options: Unpack[Options]
) -> Tensor:
    r"""All eigenvalues of the Fisher matrix of a network, or of some of its parameters.

    With G the matrix of all gradients, one per row, they are those of :math:`G G^T / N` where it
    is the smaller matrix, and zeros. Arguments and errors are those of `sample_gradients`.

    Returns:
        (parameters,) in float64, descending; what rounding made negative is 0.
    """
    with _evaluated(model, batch, task, fisher, **options) as here:
        if here.labels * len(here.entries) < here.size:
            gradients = here.all_rows()
            matrix = gradients @ gradients.T / len(here.entries)
        else:
            matrix = here.dense()
        values = torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0)
        return torch.cat([values, values.new_zeros(here.size - len(values))])


def block_moments(
    model: nn.Module,
    batch: Any,
    task: Task,
    fisher: Fisher = "exact",
    *,
    blocks: Sequence[Sequence[str]],
    **conditions: Unpack[Conditions],
) -> list[SecondMoment]:
    """The Fisher matrices of several blocks of parameters, from one set of backward passes.

    What couples the blocks is left out; of one block with all parameters nothing is. Gradients are
    not kept where they are more than the parameters of their block. Other arguments and errors are
    those of `sample_gradients`.

    Args:
        model: The module; left as found.
        batch: The batch.
        task: What it means.
        fisher: Whose labels.
        blocks: Names of the parameters of every block, each in one block only.
        **conditions: See `Conditions`.

    Returns:
        For every block the mean over examples of the outer products of its gradients.

    Raises:
        LayerscopeError: Together they have more entries than a matrix of `LARGEST` rows and
            columns.
    """
    names = [name for block in blocks for name in block]
    with _evaluated(model, batch, task, fisher, names=names, **conditions) as here:
        widths = iter(here.sizes)
        sizes = [sum(itertools.islice(widths, len(block))) for block in blocks]
        examples, count = len(here.entries), here.labels * len(here.entries)
        _check_size(
            f"blocks of {', '.join(map(str, sizes))} parameters with {count} gradients",
            sum(min(count, size) * size for size in sizes),
        )
        found = [SecondMoment(LARGEST) for _ in blocks]
        for moment, size in zip(found, sizes, strict=True):
            moment.expect(1, examples, size)
            moment.epsilon = max(moment.epsilon, here.epsilon**2)
        for rows in here.rows():
            for moment, part in zip(found, rows.split(sizes, 1), strict=True):
                moment.add(part.contiguous()[None], 0)
        return found


@contextlib.contextmanager
def fisher_product(
    model: nn.Module, batch: Any, task: Task, fisher: Fisher = "exact", **options: Unpack[Options]
) -> Iterator[tuple[Product, int]]:
    r"""Products of vectors with a Fisher matrix of any size, inside the context.

    ::

        with fisher_product(model, batch, task, names=["layer1.weight"]) as (product, size):
            top = krylov.largest(product, krylov.random_direction(size))

    :math:`F v = J^T H J v / N`, where J is the derivative of the outputs by the parameters and H
    for ``"exact"`` the Hessian of the summed loss by the outputs. A product costs two backward
    passes over a graph that is kept; Jv is the derivative of :math:`J^T u` by u. A model that
    cannot be differentiated twice, or not by what its first derivative says, which one random u
    tells by :math:`u^T J (J^T u) = |J^T u|^2`, has the sum over gradients instead, computed anew
    for every product. Arguments and errors are those of `sample_gradients`.

    Yields:
        F, from a vector (size,) to one of float64 on the same device, and the number of parameters.
    """
    with _evaluated(model, batch, task, fisher, **options) as here:
        push = here.pushed_forward()

        def product(v: Tensor) -> Tensor:
            total = here.summed(v) if push is None else here.pulled_back(here.weighed(push(v)))
            return (total.double() / len(here.entries)).to(v.device)

        yield product, here.size


@contextlib.contextmanager
def _evaluated(
    model: nn.Module,
    batch: Any,
    task: Task,
    fisher: Fisher,
    *,
    names: Sequence[str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    training: bool = False,
    seed: int = 0,
) -> Iterator[_Pass]:
    """One forward pass of an isolated model."""
    model = unwrap(model)
    leaves = _parameters(model, names)
    with isolated(model, training, weights=weights):
        for leaf in leaves:
            leaf.requires_grad_(differentiable(leaf))
        with torch.enable_grad(), no_checkpointing(), sdpa_kernel(SDPBackend.MATH):
            outputs = Subject(model, task, {}).outputs(batch)
        entries = _entries(task, outputs, batch)
        name = type(model).__name__
        here = _Pass(name, outputs, leaves, batch, task, fisher, seed, entries)
        next(here.cotangents())  # refuses what this task does not have
        yield here


def _parameters(model: nn.Module, names: Sequence[str] | None) -> list[Tensor]:
    own = every_tensor(model, every_name=names is not None)
    known = {name: tensor for name, tensor in own.items() if isinstance(tensor, nn.Parameter)}
    found: dict[int, Tensor] = {}
    chosen = list(known if names is None else names)
    if not chosen:
        raise LayerscopeError("there are no parameters.", "Name some that the model has.")
    for name in chosen:
        if name not in known:
            raise unknown("parameter", name, known)
        if id(known[name]) in found:
            raise LayerscopeError(f"{name!r} is named twice.", "Name every parameter once.")
        found[id(known[name])] = known[name]
    return list(found.values())


@dataclass
class _Pass:
    """A forward pass with its graph, and what follows from it.

    Attributes:
        entries: (examples, outputs of each), where they are in the flattened outputs.
        batched: Whether several backward passes are run together.
    """

    name: str
    outputs: Tensor
    leaves: list[Tensor]
    batch: Any
    task: Task
    fisher: Fisher
    seed: int
    entries: Tensor
    batched: bool = True

    @property
    def sizes(self) -> list[int]:
        """Numbers in every parameter."""
        return [leaf.numel() * (1 + leaf.is_complex()) for leaf in self.leaves]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(self.sizes)

    @property
    def epsilon(self) -> float:
        """Machine epsilon of what gradients are computed in."""
        return max(torch.finfo(x.dtype).eps for x in (self.outputs, *self.leaves))

    @property
    def labels(self) -> int:
        """How many are looked at per example."""
        return self.entries.shape[1] if self.fisher == "exact" else 1

    def cotangents(self) -> Iterator[Tensor]:
        """Gradients at the outputs, one of their shape for every label."""
        return cotangents(self.task, self.outputs, self.batch, self.fisher, self.seed)

    def rows(self) -> Iterator[Tensor]:
        """Gradients (some, parameters) in float64: all examples with one label, then the next."""
        total = self.outputs.numel()
        chunk = min(AT_ONCE, max(1, ENTRIES // (total + self.size)))
        for together in self.cotangents():
            flat = together.flatten()
            for entries in self.entries.split(chunk):
                apart = flat.new_zeros(len(entries), total).scatter_(1, entries, flat[entries])
                yield self._each_pulled_back(apart.reshape(-1, *self.outputs.shape))

    def all_rows(self) -> Tensor:
        """All of them, (labels x examples, parameters)."""
        count = self.labels * len(self.entries)
        _check_size(f"{count} gradients by {self.size} parameters", count * self.size)
        return torch.cat(list(self.rows()))

    def dense(self) -> Tensor:
        """F (parameters, parameters)."""
        _check_size(f"{self.size} by {self.size} parameters", self.size**2)
        found = self.outputs.new_zeros(self.size, self.size, dtype=torch.float64)
        for rows in self.rows():
            found.addmm_(rows.T, rows)
        return found / len(self.entries)

    def summed(self, vector: Tensor) -> Tensor:
        """N F v, one chunk of gradients after the other."""
        found = self.outputs.new_zeros(self.size, dtype=torch.float64)
        for rows in self.rows():
            found += (rows @ vector.to(rows)) @ rows
        return found

    @torch.enable_grad()
    def pushed_forward(self) -> Product | None:
        """The function from v to J v, shaped like the outputs; None where there is none."""
        u = torch.randn_like(self.outputs).requires_grad_(True)
        why = "its second derivative is not that of its first"
        try:
            slope = self.pulled_back(u, create_graph=True)
            if not slope.requires_grad:  # nothing depends on these parameters
                return lambda _: torch.zeros_like(self.outputs)

            def push(v: Tensor) -> Tensor:
                return torch.autograd.grad(
                    slope, u, v.to(slope), retain_graph=True, materialize_grads=True
                )[0]

            square = slope.detach().double().square().sum()
            bound = 10 * torch.finfo(slope.dtype).eps ** 0.5
            if ((u * push(slope.detach())).double().sum() - square).abs() <= bound * square:
                return push
        except RuntimeError as error:  # an operator without a second derivative
            why = str(error).splitlines()[0]
        _log.warning("%s is differentiated example by example: %s", self.name, why)
        return None

    @torch.enable_grad()
    def weighed(self, tangent: Tensor) -> Tensor:
        """H u of u shaped like the outputs."""
        if self.fisher == "exact":
            leaf = self.outputs.detach().clone().requires_grad_(True)
            loss = self.task.loss(leaf, self.batch) * len(self.entries)
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            return torch.autograd.grad(slope, leaf, tangent)[0]
        own = next(self.cotangents()).flatten()[self.entries]
        along = own * (own * tangent.flatten()[self.entries]).sum(1, keepdim=True)
        found = torch.zeros_like(tangent).flatten()
        found[self.entries] = along
        return found.reshape(tangent.shape)

    def _each_pulled_back(self, several: Tensor) -> Tensor:
        """J^T u for every one of several u, together if the model's operators allow."""
        if self.batched:
            try:
                return self.pulled_back(several, is_grads_batched=True).double()
            except RuntimeError as error:  # an operator without a batching rule
                why = str(error).splitlines()[0]
                _log.info("backward passes of %s run one by one: %s", self.name, why)
                self.batched = False
        return torch.stack([self.pulled_back(one) for one in several]).double()

    def pulled_back(self, u: Tensor, **options: bool) -> Tensor:
        """J^T u, flat and dense, with the dimensions of u that stand before the outputs'."""
        found: dict[int, Tensor | None] = {}
        moving = [x for x in self.leaves if x.requires_grad and self.outputs.requires_grad]
        if moving:
            slopes = torch.autograd.grad(
                self.outputs, moving, u, retain_graph=True, allow_unused=True, **options
            )
            found = dict(zip(map(id, moving), slopes, strict=True))
        lead, parts = u.shape[: u.ndim - self.outputs.ndim], []
        for leaf in self.leaves:
            slope = found.get(id(leaf))
            slope = leaf.new_zeros(*lead, *leaf.shape) if slope is None else slope.to_dense()
            slope = torch.view_as_real(slope) if slope.is_complex() else slope
            parts.append(slope.reshape(*lead, leaf.numel() * (1 + leaf.is_complex())))
        return torch.cat(parts, -1)


def _entries(task: Task, outputs: Any, batch: Any) -> Tensor:
    """Where in the flattened outputs those of every example are (examples, outputs of each)."""
    if not isinstance(outputs, Tensor):
        raise LayerscopeError(
            f"the model's outputs are a {type(outputs).__name__}, not a tensor.",
            "Let the task return one: dataclasses.replace(task, forward=...).",
        )
    place = torch.arange(outputs.numel(), dtype=torch.float64, device=outputs.device)
    found = categorical(task, place.reshape(outputs.shape), batch)
    if found is not None:  # logits are outputs in another order, here their places
        entries = found[0].movedim(1, -1)[found[1] != IGNORED]
    else:
        losses, rows = counted(task, outputs, batch), outputs.shape[:1].numel()
        if losses != rows:
            raise LayerscopeError(
                f"the task {task.name!r} has {losses} losses for {rows} rows of outputs.",
                "Give examples that all count, and outputs with a row for each.",
            )
        entries = place.reshape(rows, -1)
    if not len(entries):
        raise LayerscopeError("no example of the batch counts.", "Give a batch with labels.")
    return entries.long()


def _check_size(what: str, entries: int) -> None:
    if entries > LARGEST**2:
        raise TooLargeError(
            f"{what} are more than {LARGEST:,} by {LARGEST:,}, too many to be written out.",
            "Name fewer parameters, give a smaller batch, or use fisher_product with "
            "layerscope.functional.krylov.",
        )
