"""Change layers of a model on purpose: re-initialise, re-randomise, freeze, remove, linearise.

What changes weights or what is trained is a context manager and leaves the model as found; what
changes the architecture returns a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import (
    Forward,
    Layer,
    blocks,
    matching,
    preview,
    refuse_half_copied,
    run_example,
)
from layerscope.networks.drawing import Factory, fresh_weights
from layerscope.networks.isolation import copied, isolated
from layerscope.networks.names import every_tensor, unique_state, unwrap
from layerscope.networks.sites import Site, chosen_sites, find_sites, keep_linear


@contextlib.contextmanager
def reinitialised(
    model: nn.Module, layers: Layer | Iterable[Layer], weights: Mapping[str, Tensor]
) -> Iterator[nn.Module]:
    r"""Layers set back to other weights inside the context.

    :math:`\theta_l \leftarrow \theta_l^\tau`, everything else kept.

    ::

        with reinitialised(model, run.layers["layer2"], run.checkpoint(0)):
            ...

    Source: "Are All Layers Created Equal?", Section 2.

    Args:
        model: The model; its weights are put back afterwards, bit for bit.
        layers: One layer or several; parameters and buffers are set.
        weights: Tensors by name, e.g. a checkpoint.

    Raises:
        LayerscopeError: A tensor is missing or of another shape.
    """
    chosen = [layers] if isinstance(layers, Layer) else list(layers)
    names = [name for layer in chosen for name in (*layer.parameters, *layer.buffers)]
    own = unique_state(model)
    for name in names:
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise LayerscopeError(
                f"{name!r} is missing, or of another shape, in the model or in the weights.",
                "Take layers and weights of a run of this model.",
            )
    kept = {name: own[name].clone() for name in names}
    try:
        _assign(own, {name: weights[name] for name in names})
        yield model
    finally:
        _assign(own, kept)


def _assign(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def rerandomised(
    model: nn.Module,
    layers: Layer | Iterable[Layer],
    seed: int,
    factory: Factory | None = None,
) -> contextlib.AbstractContextManager[nn.Module]:
    r"""Layers drawn anew inside the context, each from its own initialiser.

    :math:`\hat\theta_l \sim P_l`, see `fresh_weights`.

    Source: "Are All Layers Created Equal?", Section 2.

    Args:
        model: The model; its weights are put back afterwards.
        layers: One layer or several.
        seed: Seed of the draw.
        factory: Builds the model anew.

    Raises:
        LayerscopeError: As for `fresh_weights`.
    """
    chosen = [layers] if isinstance(layers, Layer) else list(layers)
    modules = [name for layer in chosen for name in layer.modules]
    return reinitialised(model, chosen, fresh_weights(model, modules, seed, factory))


def freeze(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Stop training the parameters of the modules that match: they stay stranded where they are.

    Statistics of normalisation inside them still follow the data in train mode.

    Source: "Are All Layers Created Equal?", Section 5.

    Args:
        model: The model, changed in place.
        patterns: Glob patterns of module names, e.g. ``"stage*.resblk2"``.

    Returns:
        Names of the parameters that were frozen.

    Raises:
        LayerscopeError: A pattern matches no module, or nothing would be left to train.
    """
    own = _inside(model, patterns)
    frozen = [name for name, parameter in own.items() if parameter.requires_grad]
    if len(frozen) == sum(parameter.requires_grad for parameter in model.parameters()):
        raise LayerscopeError(
            f"{list(patterns)} freeze every parameter.", "Leave something to train."
        )
    for name in frozen:
        own[name].requires_grad_(False)
    return tuple(frozen)


def scale(model: nn.Module, factors: Mapping[str, float]) -> tuple[str, ...]:
    r"""Multiply the weights of modules that match, :math:`W_l \leftarrow a_l W_l`.

    Matrices and filters, of two dimensions and more; what stands in several places once. With a
    normalisation behind them outputs stay, and gradients become :math:`1 / a_l` times what they
    were: the layer is moved towards weight domination.

    Source: "Layer-wise Conditioning Analysis in Exploring the Learning Dynamics of DNNs",
    Theorem 4.2 and Definition 1.

    Args:
        model: The model, changed in place.
        factors: By glob patterns of module names, e.g. ``{"layer1": 30.0}``. Where several match,
            factors multiply.

    Returns:
        Names of the parameters that were scaled.

    Raises:
        LayerscopeError: A pattern matches no module, or none with such weights.
    """
    found: list[str] = []
    for pattern, factor in factors.items():
        own = _inside(model, [pattern])
        names = [n for n, t in own.items() if isinstance(t, nn.Parameter) and t.ndim > 1]
        if not names:
            raise LayerscopeError(
                f"no module that {pattern!r} matches has a matrix or filter.", "Choose others."
            )
        with torch.no_grad():
            for name in names:
                own[name].mul_(factor)
        found += names
    return tuple(dict.fromkeys(found))


def _inside(model: nn.Module, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of the modules that match, by name."""
    inside = tuple(f"{name}." for name in matching(model, patterns))
    return {name: t for name, t in every_tensor(model).items() if name.startswith(inside)}


@contextlib.contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[nn.Module]:
    """`freeze` inside the context; what was trainable is trainable again afterwards."""
    names = freeze(model, patterns)
    try:
        yield model
    finally:
        own = every_tensor(model)
        for name in names:
            own[name].requires_grad_(True)


def without(
    model: nn.Module, patterns: Sequence[str], example: Any, forward: Forward | None = None
) -> nn.Module:
    """A copy of a model with residual blocks left out, the identity in their place.

    Source: "Are All Layers Created Equal?", Section 5; Veit et al. 2016.

    Args:
        model: The model, left as found.
        patterns: Glob patterns of names of residual (or encoder) blocks.
        example: What the model eats; it runs once, to see that shapes are preserved.
        forward: How to run the model on the example.

    Raises:
        LayerscopeError: A pattern matches no module, or a module is no block or changes the shape
            of its input, so that it cannot be left out.
    """
    names = matching(model, patterns)
    known = blocks(model, example, forward)
    for name in names:
        if name not in known:
            raise LayerscopeError(
                f"{name!r} ({type(model.get_submodule(name)).__name__}) is no residual block and "
                "cannot be removed.",
                f"Blocks are {preview(known)}." if known else "This model has none.",
            )
    made = copied(model)
    shapes: dict[str, tuple[Any, Any]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            shapes[name] = (_shape(inputs[0] if inputs else None), _shape(output))

        return hook

    with contextlib.ExitStack() as hooks, isolated(made), torch.no_grad():
        for name in names:
            hooks.callback(made.get_submodule(name).register_forward_hook(note(name)).remove)
        run_example(made, example, forward)
    for name in names:
        before, after = shapes.get(name, (None, None))
        if before is None or before != after:
            raise LayerscopeError(
                f"{name!r} cannot be removed: it maps {before} to {after}.",
                "Only blocks that preserve the shape can be left out, e.g. not the first block of "
                "a stage that halves the image.",
            )
        made.set_submodule(name, Skipped())
    with isolated(made), torch.no_grad():
        run_example(made, example, forward)
    return made


class Skipped(nn.Identity):
    """What stands in place of a removed block: its first argument, whatever others it is given."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """The input itself."""
        return input


def linearise(
    model: nn.Module,
    sites: str | Sequence[str],
    example: Any,
    forward: Forward | None = None,
) -> nn.Module:
    """A copy of a model with activation functions left out, the identity in their place.

    Everything else stays: pooling, softmax, normalisation, parameters under their names. Behind a
    gate (``Site.gated``) a product of two branches stays, which is not linear.

    ::

        shallow = linearise(model, "first:9", images[:2])

    Source: Pinson, Boland, Ginis and Pechenizkiy, "Exploring the development of complexity over
    depth and time in deep neural networks", Section 2.

    Args:
        model: The model, left as found.
        sites: ``"all"``, ``"first:9"``, ``"last:20"``, positions or patterns of names, as
            `layerscope.networks.sites.chosen_sites` takes them; none leaves the copy as it is.
        example: What the model eats; it runs once, to find where activations act.
        forward: How to run the model on the example.

    Raises:
        LayerscopeError: The model does not run, has no such activation or one with a backward pass
            of its own, or cannot be copied.
    """
    inner = unwrap(model)
    made = copied(inner)
    every = find_sites(made, example, forward)
    refuse_half_copied(inner, made, example, forward)
    if chosen := _replaceable(chosen_sites(every, sites)):
        keep_linear(made, chosen, every)
    return made


def _replaceable(sites: Sequence[Site]) -> Sequence[Site]:
    """The sites, none of which has a backward pass of its own."""
    for site in sites:
        if site.own_backward:
            raise LayerscopeError(
                f"{site.name!r} acts inside of a torch.autograd.Function, whose backward pass "
                "would stay as it is.",
                "Put the activation into a module of its own, or linearise others.",
            )
    return sites


@contextlib.contextmanager
def linearised(
    model: nn.Module,
    sites: str | Sequence[str],
    example: Any,
    forward: Forward | None = None,
) -> Iterator[nn.Module]:
    """`linearise` the model itself, inside the context."""
    inner = unwrap(model)
    every = find_sites(inner, example, forward)
    chosen = _replaceable(chosen_sites(every, sites))
    changed = keep_linear(inner, chosen, every) if chosen else None
    try:
        yield model
    finally:
        if changed is not None:
            changed.undo()


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
