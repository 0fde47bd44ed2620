r"""Second moments of what enters every matrix of a model, and of the gradients at what leaves it.

Conventions, which other libraries differ in by factors of 2 and of N:

* Gradients are those of one example's loss, N times those of the mean loss over N that count
  (`likelihood.cotangents`).
* Every position of a sequence, and every place of a convolution's image, is an example. So
  :math:`S_x \otimes S_g` is in place of the Fisher matrix divided by the number of positions: where
  these are independent, the matrix of an example is the sum over them.
* Moments are not centred, and biases are not among the inputs.
* A matrix that is used several times, by a shared module or a tied weight, has the examples of all
  uses. Used the other way round, or as an embedding and as a matrix, it stands twice.
* A scale and shift, as that of a normalisation, has a small matrix of its own: the second moment of
  its gradients, exact but for positions of a sequence that have labels of their own.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from layerscope.errors import LayerscopeError
from layerscope.functional.conditioning import SecondMoment
from layerscope.functional.patches import Patches, padded
from layerscope.networks.isolation import isolated, no_checkpointing
from layerscope.networks.likelihood import Fisher, cotangents, counted
from layerscope.networks.names import unwrap
from layerscope.networks.products import Meeting, Use, meeting
from layerscope.networks.task import Task, first_examples

Places = Literal["channels", "patches"]
FEW = 2


@dataclass
class Factors:
    """What is known of one matrix.

    Attributes:
        use: Which matrix, in which role.
        name: The parameter's name where it is used first.
        input: Second moment of what enters; that of gradients themselves for a scale.
        gradient: Second moment of gradients at what leaves; None for a scale.
        uses: Calls in which it took part, in all batches.
        losses: Over how many losses of examples the mean is taken.
    """

    use: Use
    name: str
    input: SecondMoment
    gradient: SecondMoment | None
    uses: int = 0
    losses: int = 0


def find_uses(model: nn.Module, batch: Any, task: Task) -> tuple[dict[Use, str], dict[str, str]]:
    """The matrices that take part in a product, in order of execution.

    Args:
        model: The module; left as found.
        batch: Examples, of which a few run.
        task: What they mean.

    Returns:
        For every one the parameter's name where it is used first; and for parameters that take part
        in something else the function that it is.
    """
    model = unwrap(model)
    found: dict[Use, str] = {}
    others: dict[str, str] = {}

    def see(seen: Meeting) -> None:
        found.setdefault(seen.use, seen.name)

    with isolated(model), no_checkpointing(), meeting(model, see, others.setdefault):
        task.forward(model, first_examples(batch, FEW))
    return found, others


def row_names(uses: Mapping[Use, str]) -> dict[Use, str]:
    """What to call every matrix: the module it is the weight of, or as its parameter.

    Further ones of the same name have a number.

    Args:
        uses: The parameter's name where each is used first.
    """
    found: dict[Use, str] = {}
    counts: Counter[str] = Counter()
    for use, parameter in uses.items():
        owner, _, own = parameter.partition(".parametrizations.")[0].rpartition(".")
        derived = ".parametrizations." in parameter
        name = f"{owner}.{own}".lstrip(".") if derived else owner if own == "weight" else parameter
        counts[name] += 1
        found[use] = f"{name} #{counts[name]}" if counts[name] > 1 else name
    return found


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    task: Task,
    fisher: Fisher = "empirical",
    *,
    among: Collection[str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    training: bool = False,
    places: Places = "channels",
    most: int = 4096,
    seed: int = 0,
    elsewhere: dict[str, str] | None = None,
) -> dict[Use, Factors]:
    """Add up second moments over batches: one forward pass each, and a backward pass per label.

    Args:
        model: The module; left as found.
        batches: What passes; memory does not grow with their number.
        task: What they mean.
        fisher: Whose labels.
        among: Parameters whose matrices are looked at; all by default.
        weights: Parameters and buffers to use in place of the model's own.
        training: Mode in which the model runs; batches are normalised one by one.
        places: What enters a convolution: the ``"channels"`` at every place of its input, as in the
            paper, or the ``"patches"`` that its filter sees, as in K-FAC.
        most: As for `SecondMoment`.
        seed: Of the labels that are drawn, other ones in every batch.
        elsewhere: Takes the names of parameters that take part in something else, and in what.

    Returns:
        Factors by matrix, those that did not run left out.

    Raises:
        LayerscopeError: The model does not run, or the task has no labels of this kind.
    """
    model = unwrap(model)
    found: dict[Use, Factors] = {}
    others = {} if elsewhere is None else elsewhere
    for number, batch in enumerate(batches):
        here = _Pass()

        def see(seen: Meeting, here: _Pass = here) -> None:
            if among is None or seen.use.weight in among:
                gradient = None if seen.use.kind == "scale" else SecondMoment(most)
                fresh = Factors(seen.use, seen.name, SecondMoment(most), gradient)
                _add(seen, found.setdefault(seen.use, fresh), places, here)

        with (
            isolated(model, training, weights=weights),
            no_checkpointing(),
            contextlib.closing(here),
            meeting(model, see, others.setdefault) as starts,
        ):
            outputs = task.forward(model, batch)
            for value, slope in _ends(task, outputs, batch, fisher, seed + number):
                here.run_back(value, slope, starts)
            losses = counted(task, outputs, batch)
            del outputs
        for factors in found.values():
            factors.losses += losses
    return found


def _ends(
    task: Task, outputs: Any, batch: Any, fisher: Fisher, seed: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What is differentiated in turn, and with which gradient."""
    if isinstance(outputs, Tensor):
        for slope in cotangents(task, outputs, batch, fisher, seed):
            yield outputs, slope
    elif fisher == "empirical":
        yield task.loss(outputs, batch) * counted(task, outputs, batch), None
    else:
        raise LayerscopeError(
            f"the model's outputs are a {type(outputs).__name__}, not a tensor.",
            "Let the task return one, dataclasses.replace(task, forward=...), or use "
            'fisher="empirical".',
        )


@dataclass
class _Pass:
    """Outputs of products in one forward pass, and those that wait for their gradient."""

    outputs: dict[int, Tensor] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    handles: list[RemovableHandle] = field(default_factory=list)

    def on_gradient(self, output: Tensor, add: Callable[[Tensor], None]) -> None:
        """Call a function with the gradient at an output, once in every backward pass."""
        key = id(output)

        def hook(gradient: Tensor) -> None:
            if key in self.waiting:
                self.waiting.remove(key)
                add(gradient)

        if output.requires_grad:
            self.outputs[key] = output
            self.handles.append(output.register_hook(hook))

    def close(self) -> None:
        """Let go of the graph: hooks and outputs refer to each other, which nothing collects."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.outputs.clear()

    def run_back(self, value: Tensor, slope: Tensor | None, starts: list[Tensor]) -> None:
        """Let gradients pass all products, without those of weights.

        Outputs that do not follow from the starts, where the model asks for a gradient of its own
        inside, are reached in a pass of their own.
        """
        if not value.requires_grad:
            return

        def run_to(ends: list[Tensor]) -> None:
            if ends:
                torch.autograd.grad(value, ends, slope, retain_graph=True, allow_unused=True)

        self.waiting = set(self.outputs)
        run_to(starts)
        run_to([self.outputs[key] for key in self.waiting])


def _add(seen: Meeting, factors: Factors, places: Places, here: _Pass) -> None:
    """Add what enters now, and what comes back once it does, for every label."""
    factors.uses += 1
    kind, settings, output = seen.use.kind, seen.settings, seen.output
    if kind == "scale":
        parts = 2 if seen.use.shift else 1
        back, rows = factors.input, partial(_scales, seen)
        back.expect(1, len(output), parts * math.prod(settings["shape"]))
    else:
        assert factors.gradient is not None
        back = factors.gradient
        if kind == "embedding":
            kept = seen.input != settings["padding"]
            factors.input.add_indices(seen.input[kept], settings["features"])
            back.expect(1, int(kept.sum()), output.shape[-1])
            rows = partial(_chosen, kept)
        else:
            factors.input.add(_entering(seen, places))
            back.expect(*_leaving(seen, torch.empty_like(output, device="meta")).shape)
            rows = partial(_leaving, seen)
    here.on_gradient(output, lambda g: back.add(rows(g), 0))


def _chosen(kept: Tensor, g: Tensor) -> Tensor:
    return g[kept][None]


def _entering(seen: Meeting, places: Places) -> Tensor | Patches:
    """Rows (groups, rows, features) of what enters a matrix."""
    x, settings = seen.input, seen.settings
    if seen.use.kind == "linear":
        return _rows(x, "groups" in settings)
    groups, size = settings["groups"], settings["size"]
    x = x if x.ndim == 2 + len(size) else x[None]
    if places == "patches" and not settings["transposed"]:
        size, dilation = settings["size"], settings["dilation"]
        around = padded(x, settings["padding"], size, dilation)
        return Patches(around, size, settings["stride"], dilation, groups)
    return _channels(x, groups)


def _leaving(seen: Meeting, g: Tensor) -> Tensor:
    """Rows (groups, rows, features) of gradients at what leaves it."""
    settings = seen.settings
    if seen.use.kind == "linear":
        return _rows(g.mT if "turned" in settings else g, "groups" in settings)
    g = g if g.ndim == 2 + len(settings["size"]) else g[None]
    return _channels(g, settings["groups"])


def _rows(x: Tensor, grouped: bool) -> Tensor:
    return x if grouped else x.reshape(1, -1, x.shape[-1])


def _channels(x: Tensor, groups: int) -> Tensor:
    """(examples, channels, *places) to (groups, examples places, channels of a group)."""
    apart = x.movedim(1, -1).reshape(-1, groups, x.shape[1] // groups)
    return apart.transpose(0, 1)


def _scales(seen: Meeting, g: Tensor) -> Tensor:
    """Gradients (1, examples, 1 or 2 times features) of scale and shift, summed over places."""
    shape, parts = seen.settings["shape"], [g * seen.input, g][: 2 if seen.use.shift else 1]
    found = []
    for part in parts:
        apart = part.movedim(1, -1) if seen.settings["channels"] else part
        last = apart.ndim - len(shape)
        found.append(apart.sum(tuple(range(1, last))) if last > 1 else apart)
    return torch.cat([one.reshape(len(g), -1) for one in found], 1)[None]
