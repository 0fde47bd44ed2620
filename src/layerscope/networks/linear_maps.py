"""Affine maps in place of whole layers or blocks: what one place of an output depends on.

A fully connected layer maps all of its inputs to all of its outputs. A convolutional layer or block
maps a window of its input to every place of its output, the same map everywhere; how large the
window is, is seen from derivatives. Transformers map every position by itself, as far as one map
for all positions can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from layerscope.functional.least_squares import held_out_r2
from layerscope.networks.activations import put_back
from layerscope.networks.isolation import isolated
from layerscope.networks.names import named_modules, unwrap
from layerscope.networks.task import Task, first_examples

FEW = 8
"""Examples from which windows are seen."""
LEAST_ROWS, ROWS_PER_FEATURE = 5000, 10
"""Rows that are drawn where there are more: so many, or ten per feature if that is more."""
MOST_ENTRIES, FEWEST_PER_FEATURE = 2**27, 3
"""Entries of all these rows, a gibibyte of float64, beyond which only three per feature are drawn.
"""


@dataclass(frozen=True)
class Window:
    """The inputs on which one place of an output depends, along every dimension of places.

    Attributes:
        sizes: Length of the window.
        strides: How far it moves from one place of the output to the next.
        margins: How far it reaches beyond the image at the first place.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    margins: tuple[int, ...]

    def unfolded(self, input: Tensor, places: Sequence[int]) -> Tensor:
        """Windows (examples, *places, channels, *sizes) of an input, zeros beyond the image."""
        padded = F.pad(input, self.padding(input.shape[2:], places))
        for dim, (size, stride) in enumerate(zip(self.sizes, self.strides, strict=True), start=2):
            padded = padded.unfold(dim, size, stride)
        for dim, length in enumerate(places, start=2):
            padded = padded.narrow(dim, 0, length)
        return padded.movedim(1, 1 + len(places))

    def padding(self, image: Sequence[int], places: Sequence[int]) -> list[int]:
        """Zeros around an image of some size, for an output of some size, as `F.pad` takes them."""
        found = []
        for length, n, size, stride, margin in zip(
            image, places, self.sizes, self.strides, self.margins, strict=True
        ):
            found = [margin, max(0, (n - 1) * stride + size - margin - length), *found]
        return found

    def inside(self, image: Sequence[int], places: Sequence[int]) -> Tensor:
        """Of which places (*places) the whole window lies in the image."""
        kept = torch.ones(tuple(places), dtype=torch.bool)
        for dim, (length, n) in enumerate(zip(image, places, strict=True)):
            start = torch.arange(n) * self.strides[dim] - self.margins[dim]
            along = (start >= 0) & (start + self.sizes[dim] <= length)
            kept &= along.view([-1 if d == dim else 1 for d in range(len(places))])
        return kept


def find_windows(
    model: nn.Module, batch: Any, task: Task, names: Sequence[str], weights: Any = None
) -> dict[str, Window | None]:
    """What one place of a module's output depends on, from derivatives on a few examples.

    Args:
        model: The module; left as found.
        batch: Examples, of which a few are used.
        task: What they mean.
        names: Modules that map (examples, channels, *places) to such a tensor.
        weights: Parameters and buffers to use in place of the model's own.

    Returns:
        The window of every module that has run; None where an output depends on all of the image,
        or on so much of it that the window meets its border everywhere.
    """
    model = unwrap(model)
    batch = first_examples(batch, FEW)
    found: dict[str, Window | None] = {}

    def see(name: str, run: Callable[[Tensor], Any], input: Tensor) -> Any:
        output = run(input)
        if name not in found and is_image(input) and is_image(output):
            with torch.enable_grad():
                leaf = input.detach().clone().requires_grad_()
                again = run(leaf.clone())
                found[name] = _window(leaf, again) if is_image(again) else None
        return output

    with isolated(model, weights=weights), torch.no_grad(), around(model, names, see):
        task.forward(model, batch)
    return found


def is_image(value: Any) -> bool:
    """Whether a value is a tensor of real numbers (examples, channels, height, width)."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def _window(leaf: Tensor, output: Tensor) -> Window | None:
    places, image = output.shape[2:], leaf.shape[2:]
    middle = [n // 2 for n in places]
    (slopes,) = torch.autograd.grad(output[:, :, middle[0], middle[1]].square().sum(), leaf)
    moved = (slopes != 0).any(0).any(0)
    sizes, strides, margins = [], [], []
    for dim, (length, n) in enumerate(zip(image, places, strict=True)):
        along = moved.any(1 - dim).nonzero().flatten()
        if not len(along):
            return None
        low, high = int(along[0]), int(along[-1])
        if (low == 0 or high == length - 1) and length > 1:
            return None
        stride = -(-length // n)
        sizes.append(high - low + 1)
        strides.append(stride)
        margins.append(middle[dim] * stride - low)
    if min(margins) < 0:
        return None
    return Window(tuple(sizes), tuple(strides), tuple(margins))


@contextmanager
def around(
    model: nn.Module, names: Sequence[str], see: Callable[[str, Callable[..., Any], Tensor], Any]
) -> Iterator[None]:
    """Let a function run some modules: what it returns takes the place of their output.

    Inside `layerscope.networks.isolation.isolated`. Modules whose first argument is no tensor run
    as they are.

    Args:
        model: The module that runs inside, without wrappers.
        names: Names of modules.
        see: Called with the name, a function from the first argument to the module's output, and
            that argument.
    """
    known = dict(named_modules(model))
    installed = [(known[name], keep_around(known[name], name, see)) for name in names]
    try:
        yield
    finally:
        for module, own in reversed(installed):
            put_back(module, own)


def keep_around(
    module: nn.Module, name: str, see: Callable[[str, Callable[..., Any], Tensor], Any]
) -> Any:
    """`around` one module of a name from now on, in every call of it.

    Returns:
        What was its own ``forward``; None where that was its class's.
    """
    own = vars(module).get("forward")
    module.forward = _Around(module, own, name, see)
    return own


@dataclass(frozen=True, eq=False)
class _Around:
    module: nn.Module
    own: Callable[..., Any] | None
    name: str
    see: Callable[[str, Callable[..., Any], Tensor], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.own if self.own is not None else type(self.module).forward.__get__(self.module)
        if not args or not isinstance(args[0], Tensor):
            return run(*args, **kwargs)
        return self.see(self.name, lambda x: run(x, *args[1:], **kwargs), args[0])


def paired_rows(
    input: Tensor, output: Tensor, window: Window | None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of what enters and of what leaves, that one affine map could relate.

    (examples, features) are rows as they are, and so is every position of (examples, positions,
    features). Of images every place is a row, with the window before it, where that lies inside
    the image; without a window every example is a row, with all of its places. Of many rows a
    random choice is taken: ten for every feature, fewer where that takes too much memory.

    Args:
        input: What enters.
        output: What leaves.
        window: What a place of an image depends on.
        seed: Seed of the choice.
    """
    most = most_rows(features(input, output, window))
    generator = torch.Generator().manual_seed(seed)
    if window is None or not is_image(input):
        by_position = _by_position(input, output)
        x, y = (t.flatten(0, -2) if by_position else t.flatten(1) for t in (input, output))
        chosen = _drawn(len(x), most, generator).to(x.device)
        return x[chosen], y[chosen]
    places = output.shape[2:]
    kept = window.inside(input.shape[2:], places).nonzero()
    chosen = _drawn(len(input) * len(kept), most, generator)
    example, (down, across) = chosen // len(kept), kept[chosen % len(kept)].T
    example, down, across = (index.to(input.device) for index in (example, down, across))
    x = window.unfolded(input, places)[example, down, across].flatten(1)
    return x, output[example, :, down, across]


def most_rows(features: int) -> int:
    """How many rows are drawn of more, for so many features each."""
    fitting = max(MOST_ENTRIES // features, FEWEST_PER_FEATURE * features)
    return max(LEAST_ROWS, min(ROWS_PER_FEATURE * features, fitting))


def _by_position(input: Tensor, output: Tensor) -> bool:
    return not is_image(input) and input.shape[:-1] == output.shape[:-1]


def _drawn(n: int, most: int, generator: torch.Generator) -> Tensor:
    return torch.arange(n) if n <= most else torch.randperm(n, generator=generator)[:most]


def features(input: Tensor, output: Tensor, window: Window | None) -> int:
    """How many inputs every row of `paired_rows` has."""
    if window is not None and is_image(input):
        return input.shape[1] * math.prod(window.sizes)
    return input.shape[-1] if _by_position(input, output) else input[0].numel()


@dataclass(frozen=True)
class Fit:
    """How linear a layer is; or why that is not known."""

    reason: str = ""
    share: float = math.nan


def fit_of(input: Tensor, output: Any, window: Window | None, inside: bool = False) -> Fit:
    """Held-out :math:`R^2` from what enters a layer to what leaves it; half of the examples each.

    Args:
        input: What enters.
        output: What leaves.
        window: What a place of an image depends on.
        inside: To what leaves less what enters.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return Fit("does not return a tensor of real numbers")
    if not input.is_floating_point() or input.ndim < 2 or len(input) != len(output):
        return Fit("does not take real numbers for every example")
    if inside and input.shape != output.shape:
        return Fit("does not keep the shape of what enters")
    target, half = output - input if inside else output, len(input) // 2
    if half < 1 or len((fitted := paired_rows(input[:half], target[:half], window))[0]) < 2:
        return Fit("needs more examples to fit an affine map to")
    result = held_out_r2(*fitted, *paired_rows(input[half:], target[half:], window))
    if result.enough:
        return Fit(share=result.r2)
    needed = -(-2 * (result.rank + 1) * len(input) // result.n)
    return Fit(
        f"needs about {needed} samples for its {result.inputs} inputs; there are {len(input)}"
    )


def applied(
    input: Tensor, output: Tensor, window: Window | None, weight: Tensor, intercept: Tensor
) -> Tensor:
    """The output that an affine map of `paired_rows` gives, everywhere; zeros beyond the image."""
    if window is None or not is_image(input):
        x = input if _by_position(input, output) else input.flatten(1)
        return (x @ weight + intercept).reshape(output.shape)
    padded = F.pad(input, window.padding(input.shape[2:], output.shape[2:]))
    kernel = weight.T.reshape(-1, input.shape[1], *window.sizes)
    return F.conv2d(padded, kernel, intercept, window.strides)
