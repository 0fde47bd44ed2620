"""Fully connected networks, plain and residual."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from layerscope.config import Activation
from layerscope.errors import LayerscopeError

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise LayerscopeError(f"{name} is {size}.", f"{name} must be at least 1.")


def fcn(
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 3,
    width: int = 256,
    activation: Activation = "relu",
) -> nn.Sequential:
    """A fully connected network: ``layer1`` to ``layer<depth>``, then a linear ``output``.

    FCN 3x256 is the network of "Are all layers created equal?" (Fig. 1); depth 3, width 32 with
    sigmoid on one input is 1-32-32-32-1 of "Which layer is learning faster?" (Fig. 1a). Initialised
    as PyTorch does: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases.

    Args:
        input_shape: Shape of one example; it is flattened.
        outputs: Width of the output layer.
        depth: Number of hidden layers.
        width: Units per hidden layer.
        activation: Name of the activation after every hidden layer.

    Returns:
        The network, from (batch, *input_shape) to (batch, outputs).
    """
    _check(depth=depth, width=width, outputs=outputs)
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = math.prod(input_shape)
    for i in range(1, depth + 1):
        parts[f"layer{i}"] = nn.Linear(size, width)
        parts[f"activation{i}"] = ACTIVATIONS[activation]()
        size = width
    parts["output"] = nn.Linear(size, outputs)
    return nn.Sequential(parts)


class Residual(nn.Module):
    """``z + linear2(activation(linear1(z)))``: no activation after the addition."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.activation = ACTIVATIONS[activation]()
        self.linear2 = nn.Linear(width, width)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        return z + self.linear2(self.activation(self.linear1(z)))


class ResidualFCN(nn.Module):
    """Linear input, residual blocks, linear output; see `residual_fcn`."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, width: int, activation: Activation
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.input = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Residual(width, activation) for _ in range(blocks))
        self.output = nn.Linear(width, outputs)

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
) -> ResidualFCN:
    """The residual FCN of "Which layer is learning faster?" (Table 2): about 132k parameters.

    ``z_0 = T_0(x)``, ``z_l = z_{l-1} + T_l(z_{l-1})``, ``y = T(z_L)``. The branch is linear,
    activation, linear, and nothing follows the addition, so that the output is the sum of what
    the blocks contribute (Section 5). PyTorch's initialisation.

    Args:
        input_shape: Shape of one example; it is flattened.
        outputs: Width of the output layer.
        blocks: Number of residual blocks.
        width: Units everywhere inside.
        activation: Name of the activation inside the branches.

    Returns:
        The network, from (batch, *input_shape) to (batch, outputs).
    """
    _check(blocks=blocks, width=width, outputs=outputs)
    return ResidualFCN(math.prod(input_shape), outputs, blocks, width, activation)
