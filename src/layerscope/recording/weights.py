"""The weights of one module that trains, by name, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import named_state, unwrap
from layerscope.networks.shards import local


class Live(Mapping[str, Tensor]):
    """The model's tensors at one moment, by name.

    Parameters are found one by one, which costs a fraction of a ``state_dict``; whatever else is
    asked for comes from that. Nothing is remembered from one moment to the next, since modules
    and parameters may be exchanged in between.
    """

    def __init__(self, model: nn.Module, aliases: Mapping[str, str]) -> None:
        self._model = model
        self._aliases = aliases
        self._found: dict[str, Tensor] = {}

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers, tied ones once: what a checkpoint holds."""
        state = named_state(self._model).items()
        return {k: v.detach() for k, v in state if k not in self._aliases}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Tensor:
        *path, leaf = name.split(".")
        module: nn.Module | None = self._model
        for part in path:
            module = module._modules.get(part) if module is not None else None
            module = unwrap(module) if module is not None else None
        parameter = module._parameters.get(leaf) if module is not None else None
        return self.state[name] if parameter is None else parameter.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def misfits(layers: LayerMap, now: Mapping[str, Tensor]) -> dict[str, str]:
    """Layers of which a parameter is gone or has another shape, by name, and which."""
    found: dict[str, str] = {}
    for layer in layers:
        for name, shape in layer.parameters.items():
            if (tensor := now.get(name)) is None:
                found.setdefault(layer.name, f"there is no {name!r}")
            elif tuple(tensor.shape) != shape:
                reason = f"{name!r} has shape {tuple(tensor.shape)}, not {shape}"
                found.setdefault(layer.name, reason)
    return found


def not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter that is not finite here; None if all are."""
    for name, tensor in named_state(model).items():
        held = local(tensor.detach())
        if isinstance(tensor, nn.Parameter) and not bool(held.isfinite().all()):
            return name
    return None


def refuse_misfits(layers: LayerMap, model: nn.Module) -> None:
    """Refuse layers that are not those of the module.

    Raises:
        LayerscopeError: A parameter of a layer is not there or has another shape.
    """
    for name, reason in misfits(layers, Live(model, layers.aliases)).items():
        raise LayerscopeError(
            f"layer {name!r} does not fit the model: {reason}.",
            "Make the layers from this model: LayerMap.from_model(model, ...).",
        )
