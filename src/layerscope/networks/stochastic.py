"""A classifier that resets a few residual blocks at random whenever it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import Layer
from layerscope.networks.drawing import Factory, fresh_weights
from layerscope.networks.isolation import exchanged, mixed_seed, no_checkpointing
from layerscope.networks.names import Weights, named_modules, unique_state


class StochasticClassifier(nn.Module):
    """The model with one block of each of ``active`` random stages replaced by one of its draws.

    Every call chooses anew and independently: the stages without replacement, in each a block, for
    it a draw, all with equal chances. All examples of a call share the choice. The model's weights
    stay as they are; gradients flow to the input. With ``active=0`` it is the model.

    Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?", Section 6.

    Args:
        model: The trained model; training or evaluation mode is the caller's affair.
        stages: Names of the residual blocks of every stage.
        draws: For each block its pre-drawn weights: tensors by their name in
            ``model.state_dict()``, on the model's device.
        active: How many stages to choose.
        seed: Seed of the choices; the global random state is not used.

    Raises:
        LayerscopeError: There are fewer stages than ``active``, a block has no draws, or a draw
            does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Mapping[str, Sequence[str]],
        draws: Mapping[str, Sequence[Weights]],
        active: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= active <= len(stages):
            raise LayerscopeError(
                f"cannot reset a block in {active} of {len(stages)} stages "
                f"({', '.join(stages) or 'none'}).",
                f"Choose active between 0 and {len(stages)}.",
            )
        own = unique_state(model)
        for block in (block for blocks in stages.values() for block in blocks):
            _check(block, draws.get(block, ()), own)
        self.model = model
        self.active = active
        self._choices = [[draws[block] for block in blocks] for blocks in stages.values()]
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs of the model after a fresh choice."""
        if self.active == 0:
            return self.model(*args, **kwargs)
        # A part that the backward pass computes again would no longer find the choice in place.
        with exchanged(self.model, self._replaced()), no_checkpointing():
            return self.model(*args, **kwargs)

    def _replaced(self) -> dict[str, Tensor]:
        replaced: dict[str, Tensor] = {}
        order = torch.randperm(len(self._choices), generator=self._generator)
        for stage in order[: self.active].tolist():
            replaced |= self._pick(self._pick(self._choices[stage]))
        return replaced

    def _pick(self, options: Sequence[Any]) -> Any:
        return options[int(torch.randint(len(options), (), generator=self._generator))]


def identity_shortcut(block: nn.Module) -> bool:
    """Whether a residual block keeps its input's shape: its ``shortcut`` is `torch.nn.Identity`."""
    return isinstance(getattr(block, "shortcut", None), nn.Identity)


def block_stages(
    model: nn.Module,
    layers: Iterable[Layer],
    eligible: Callable[[nn.Module], bool] = identity_shortcut,
) -> dict[str, list[Layer]]:
    """The blocks that may be reset, by stage: ``stage1.resblk2`` is in stage ``stage1``."""
    modules = dict(named_modules(model))
    stages: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.name in modules and eligible(modules[layer.name]):
            stages.setdefault(layer.name.rpartition(".")[0], []).append(layer)
    return stages


def stochastic(
    model: nn.Module,
    layers: Iterable[Layer],
    active: int,
    draws: int = 4,
    seed: int = 0,
    factory: Factory | None = None,
    eligible: Callable[[nn.Module], bool] = identity_shortcut,
) -> StochasticClassifier:
    """The stochastic classifier of a model, with draws from its blocks' own initialisers.

    A draw is everything a block owns: parameters, and statistics of normalisation if it has any.

    Args:
        model: The trained model.
        layers: Its layers, residual blocks among them (``unit="block"``).
        active: How many stages to reset a block of at each call.
        draws: Pre-drawn weights for each block.
        seed: Seed of draws and choices; draw ``i`` has the mixed seed ``seed / i``.
        factory: Builds the model anew, as in `layerscope.networks.surgery.fresh_weights`.
        eligible: Which blocks may be reset: those that keep their input's shape.

    Raises:
        LayerscopeError: No block is eligible, or one of `StochasticClassifier` and
            `layerscope.networks.surgery.fresh_weights`.
    """
    stages = block_stages(model, layers, eligible)
    blocks = [block for members in stages.values() for block in members]
    if not blocks:
        raise LayerscopeError(
            f"{type(model).__name__} has no eligible residual block among its layers.",
            'Find its layers with unit="block"; where its blocks mark an identity skip otherwise '
            "than by shortcut = nn.Identity(), pass eligible=...",
        )
    owners = [name for block in blocks for name in block.modules]
    fresh = [
        fresh_weights(model, owners, mixed_seed("block", seed, i), factory) for i in range(draws)
    ]
    drawn = {
        b.name: [{n: w[n] for n in (*b.parameters, *b.buffers)} for w in fresh] for b in blocks
    }
    named = {stage: [block.name for block in members] for stage, members in stages.items()}
    return StochasticClassifier(model, named, drawn, active, seed)


def _check(block: str, draws: Sequence[Weights], own: Weights) -> None:
    if not draws:
        raise LayerscopeError(f"block {block!r} has no draws.", "Give every block at least one.")
    for name, tensor in (item for draw in draws for item in draw.items()):
        if name not in own or own[name].shape != tensor.shape:
            raise LayerscopeError(
                f"a draw of block {block!r} does not fit the model: {name!r}.",
                "Use names and shapes of model.state_dict().",
            )
