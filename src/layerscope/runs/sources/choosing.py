"""Where in a checkpoint the weights are: one rule, or what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import preview
from layerscope.runs.sources.contents import Entry
from layerscope.runs.sources.descriptions import SAFE, Placeholder, said

DEEPEST = 3
"""Levels of dictionaries that are looked into."""
SAVE = "Save model.state_dict() with torch.save or safetensors."


def choose(tree: Any, key: str | None, where: str) -> tuple[str, dict[str, Entry]]:
    """The weights of a checkpoint and where they stand.

    Weights are a dictionary that has names and nothing but tensors. Without a key: the outermost
    one, if there is one only. What modules keep beside tensors (``get_extra_state``) is left out.

    Args:
        tree: What the checkpoint holds.
        key: Where they are: names of dictionaries joined by dots, and behind them the beginning of
            the tensors' names, if only those below it are meant.
        where: How to call the checkpoint in messages.

    Returns:
        The key, empty for the whole checkpoint, and the tensors by name.

    Raises:
        LayerscopeError: There are none, or several and no key, or none at the key.
    """
    if key:
        if (found := _weights(_at(tree, key))) is None:
            raise LayerscopeError(
                f"{where} has no weights at key {key!r}.", f"{_known(tree)} Check the key."
            )
        return key, found
    if not isinstance(tree, Mapping):
        remedy = SAFE if isinstance(tree, Placeholder) else SAVE
        raise LayerscopeError(f"{where} holds {_called(tree)}, not a state dict.", remedy)
    level: dict[str, Any] = {"": tree}
    for _ in range(DEEPEST + 1):
        fitting = {path: found for path, node in level.items() if (found := _weights(node))}
        if len(fitting) == 1:
            return next(iter(fitting.items()))
        if fitting:
            raise LayerscopeError(
                f"{where} holds weights more than once: {', '.join(map(repr, fitting))}.",
                f"Say which: key={next(iter(fitting))!r}.",
            )
        level = _below(level)
    others = [f"{name!r} ({_called(value)})" for name, value in tree.items() if not _tensor(value)]
    raise LayerscopeError(
        f"{where} holds no dictionary of nothing but tensors: "
        f"{f'it has {preview(others, 5)}' if others else 'it is empty'}.",
        SAFE if any(isinstance(value, Placeholder) for value in tree.values()) else SAVE,
    )


def _below(level: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionaries one level further in, each once."""
    found: dict[int, tuple[str, Any]] = {}
    for path, node in level.items():
        for name, value in node.items():
            if isinstance(value, Mapping) and isinstance(name, str):
                found.setdefault(id(value), (f"{path}.{name}" if path else name, value))
    return dict(found.values())


def _weights(node: Any) -> dict[str, Entry] | None:
    """The tensors of a dictionary that has nothing else; None for what is no such."""
    if not isinstance(node, Mapping):
        return None
    kept = {name: value for name, value in node.items() if not is_extra(name)}
    plain = all(isinstance(name, str) and _tensor(value) for name, value in kept.items())
    return kept if kept and plain else None


def _tensor(value: Any) -> bool:
    return isinstance(value, Entry)


def _at(node: Any, key: str) -> Any:
    """What stands at a dotted key; None if nothing does."""
    if not isinstance(node, Mapping):
        return None
    if key in node:
        return node[key]
    for name, value in node.items():
        if isinstance(name, str) and key.startswith(f"{name}."):
            inside = _at(value, key.removeprefix(f"{name}."))
            if inside is not None:
                return inside
    below = {
        name.removeprefix(f"{key}."): value
        for name, value in node.items()
        if isinstance(name, str) and name.startswith(f"{key}.")
    }
    return below or None


def _known(tree: Any) -> str:
    keys = list(tree) if isinstance(tree, Mapping) else []
    names = [key if isinstance(key, str) else said(key) for key in keys]
    return f"It has {preview(names, 8) or 'no entries'}."


def _called(value: Any) -> str:
    if isinstance(value, Entry):
        return "one tensor"
    if isinstance(value, Placeholder):
        return f"an object of {said(value)}, which is not built"
    return f"a {type(value).__name__}"


def is_extra(name: object) -> bool:
    """Whether a name of a state dict is that of a module's extra state, which is no weight."""
    return isinstance(name, str) and name.rpartition(".")[2] == "_extra_state"
