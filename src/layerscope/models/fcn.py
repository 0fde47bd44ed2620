"""Fully connected networks, plain and residual."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from layerscope.config import Activation, Initialisation, Normalisation
from layerscope.errors import LayerscopeError, check_choice
from layerscope.models.initialisation import check_groups, check_sizes, initialise

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}
NORMALISATIONS: dict[Normalisation, Callable[[int, int], nn.Module]] = {
    "batch": lambda width, groups: nn.BatchNorm1d(width),
    "layer": lambda width, groups: nn.LayerNorm(width),
    "group": lambda width, groups: nn.GroupNorm(groups, width),
}


def fcn(
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 3,
    width: int = 256,
    activation: Activation = "relu",
    normalisation: Normalisation = "none",
    groups: int = 8,
    initialisation: Initialisation = "torch",
    bias: bool = True,
    output_norm: bool = False,
) -> nn.Sequential:
    """A fully connected network: ``layer1`` to ``layer<depth>``, then a linear ``output``.

    FCN 3x256 is the network of "Are all layers created equal?" (Fig. 1); depth 3, width 32 with
    sigmoid on one input is 1-32-32-32-1 of "Which layer is learning faster?" (Fig. 1a). Width 256
    with and without batch normalisation is the 20-layer MLP of "Layer-wise conditioning analysis"
    (Section 4.1, Fig. 3), which leaves open whether the output counts. ``norm1`` and so on stand
    between a hidden layer and its activation; the output is normalised on request, as Theorem 4.2
    there has it. Linear layers keep their bias under any normalisation, so that all draw the same
    initial weights.

    Args:
        input_shape: Shape of one example; it is flattened.
        outputs: Width of the output layer.
        depth: Number of hidden layers.
        width: Units per hidden layer.
        activation: Name of the activation after every hidden layer.
        normalisation: ``"none"``, or normalise over the ``"batch"``, over all units (``"layer"``)
            or over each of the groups of units (``"group"``).
        groups: Groups of ``"group"`` normalisation.
        initialisation: See `initialise`; ``output`` is the read-out.
        bias: Whether linear layers add a bias.
        output_norm: Normalise the outputs as well, by ``output_norm``.

    Returns:
        The network, from (batch, *input_shape) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size not positive, or a normalisation does not fit
            the width, or is none where outputs are to be normalised.
    """
    check_sizes(depth=depth, width=width, outputs=outputs)
    check_choice("activation", activation, ACTIVATIONS)
    _check_normalisation(normalisation, width, groups)
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = math.prod(input_shape)
    for i in range(1, depth + 1):
        parts[f"layer{i}"] = nn.Linear(size, width, bias)
        if normalisation != "none":
            parts[f"norm{i}"] = NORMALISATIONS[normalisation](width, groups)
        parts[f"activation{i}"] = ACTIVATIONS[activation]()
        size = width
    parts["output"] = nn.Linear(size, outputs, bias)
    if output_norm:
        if normalisation == "none":
            raise LayerscopeError(
                "output_norm is set, but normalisation is 'none'.", "Choose a normalisation."
            )
        _check_normalisation(normalisation, outputs, groups, "outputs")
        parts["output_norm"] = NORMALISATIONS[normalisation](outputs, groups)
    model = nn.Sequential(parts)
    initialise(model, initialisation, read_out="output")
    return model


class Residual(nn.Module):
    """``z + branch(z)``: the branch runs its parts in order, and nothing follows the addition."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        branch = z
        for part in self.children():
            branch = part(branch)
        return z + branch


class ResidualFCN(nn.Module):
    """Linear input, residual blocks, linear output; see `residual_fcn`."""

    def __init__(self, first: nn.Linear, blocks: Iterable[Residual], last: nn.Linear) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.input = first
        self.blocks = nn.ModuleList(blocks)
        self.output = last

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) to (batch, outputs)."""
        z = self.input(self.flatten(x))
        for block in self.blocks:
            z = block(z)
        return self.output(z)


def residual_fcn(
    input_shape: tuple[int, ...],
    outputs: int,
    blocks: int = 4,
    width: int = 128,
    activation: Activation = "relu",
    depths: tuple[int, ...] = (),
    branch: Literal["between", "before", "after"] = "between",
    normalisation: Normalisation = "none",
    groups: int = 8,
    initialisation: Initialisation = "torch",
    input_scale: float = 1.0,
    branch_scale: float = 1.0,
) -> ResidualFCN:
    """The residual FCN of "Which layer is learning faster?" (Table 2): about 132k parameters.

    ``z_0 = T_0(x)``, ``z_l = z_{l-1} + T_l(z_{l-1})``, ``y = T(z_L)``. By default the branch is
    linear, activation, linear. Nothing follows the addition, so that the output is the sum of what
    the blocks contribute (Section 5). Other ``depths`` are those of Fig. 20, normalisations those
    of Fig. 16; the paper leaves open where activations stand in a branch of one layer, and where a
    normalisation stands: here directly before every activation of a branch. Linear layers keep
    their bias under any normalisation, so that all draw the same initial weights.

    Args:
        input_shape: Shape of one example; it is flattened.
        outputs: Width of the output layer.
        blocks: Number of residual blocks.
        width: Units everywhere inside.
        activation: Name of the activation inside the branches.
        depths: Linear layers in the branch of each block where not two, e.g. ``(4, 1, 1, 1)``.
        branch: Where the activations of a branch stand: ``"between"`` its linear layers,
            ``"before"`` each of them or ``"after"`` each of them.
        normalisation: ``"none"``, or normalise over the ``"batch"``, over all units (``"layer"``)
            or over each of the groups of units (``"group"``).
        groups: Groups of ``"group"`` normalisation.
        initialisation: See `initialise`; ``output`` is the read-out.
        bias: Whether linear layers add a bias.
        input_scale: Multiplies the initial weights and biases of the input layer.
        branch_scale: Multiplies those of the last linear layer of every branch.

    Returns:
        The network, from (batch, *input_shape) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size not positive, ``depths`` does not fit
            ``blocks`` or ``branch``, or a normalisation does not fit the width.
    """
    check_sizes(blocks=blocks, width=width, outputs=outputs)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("branch", branch, ("between", "before", "after"))
    depths = tuple(depths) or (2,) * blocks
    _check_depths(depths, blocks, branch)
    _check_normalisation(normalisation, width, groups)
    _check_scales(input_scale=input_scale, branch_scale=branch_scale)

    def activated(number: str) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {}
        if normalisation != "none":
            parts[f"norm{number or 1}"] = NORMALISATIONS[normalisation](width, groups)
        return parts | {f"activation{number}": ACTIVATIONS[activation]()}

    model = ResidualFCN(
        nn.Linear(math.prod(input_shape), width),
        [Residual(_branch(width, depth, branch, activated)) for depth in depths],
        nn.Linear(width, outputs),
    )
    initialise(model, initialisation, read_out="output")
    _scale(model.input, input_scale)
    for block, depth in zip(model.blocks, depths, strict=True):
        _scale(block.get_submodule(f"linear{depth}"), branch_scale)
    return model


def _branch(
    width: int, depth: int, branch: str, activated: Callable[[str], dict[str, nn.Module]]
) -> dict[str, nn.Module]:
    """Linear layers with what ``activated`` makes; a single activation has no number."""
    activations = depth - 1 if branch == "between" else depth
    parts: dict[str, nn.Module] = {}
    for i in range(1, depth + 1):
        linear = {f"linear{i}": nn.Linear(width, width)}
        activation = activated(str(i) if activations > 1 else "") if i <= activations else {}
        parts |= activation | linear if branch == "before" else linear | activation
    return parts


def _check_depths(depths: tuple[int, ...], blocks: int, branch: str) -> None:
    if len(depths) != blocks:
        raise LayerscopeError(
            f"depths is {depths}, which is {len(depths)} blocks, but blocks is {blocks}.",
            "Give every block its number of linear layers.",
        )
    if min(depths) < 1:
        raise LayerscopeError(f"depths is {depths}.", "Every block has at least 1 linear layer.")
    if branch == "between" and min(depths) == 1:
        raise LayerscopeError(
            f"depths is {depths}: a branch of one linear layer has no activation between layers.",
            'Use branch="before" or branch="after", or at least 2 layers in every block.',
        )


def _check_normalisation(
    normalisation: Normalisation, width: int, groups: int, what: str = "width"
) -> None:
    check_choice("normalisation", normalisation, ("none", *NORMALISATIONS))
    if normalisation == "group":
        check_groups(groups, **{what: width})
    if width == {"layer": 1, "group": groups}.get(normalisation):
        raise LayerscopeError(
            f"{normalisation} normalisation of single units ({what} {width}) makes them all 0.",
            f"Choose a larger {what}, or fewer groups.",
        )


def _check_scales(**scales: float) -> None:
    for name, scale in scales.items():
        if not 0 <= scale < math.inf:
            raise LayerscopeError(f"{name} is {scale}.", f"{name} must be at least 0 and finite.")


def _scale(layer: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(factor)
