"""The layers of a model: named sets of parameters in the order in which they first run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from layerscope.display import html
from layerscope.errors import LayerscopeError, unknown
from layerscope.functional.norms import owners
from layerscope.networks.discovery import Forward, Layer, discover, preview

COLUMNS = ("depth", "layer", "kind", "group", "parameters", "shapes")
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class LayerMap:
    """The layers of one model, by depth. Iterating yields `Layer`; indexing takes a name.

    Attributes:
        layers: The layers in order of first execution.
        aliases: Other names of tied tensors, each with the name used everywhere here.
    """

    layers: tuple[Layer, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        names: set[str] = set()
        for layer in self.layers:
            if layer.name in names:
                raise LayerscopeError(
                    f"two layers are called {layer.name!r}.", "Give every layer its own name."
                )
            names.add(layer.name)
            for parameter in layer.parameters:
                if parameter in seen:
                    raise LayerscopeError(
                        f"{parameter!r} belongs to layers {seen[parameter]!r} and {layer.name!r}.",
                        "Every parameter belongs to one layer: make the patterns disjoint.",
                    )
                seen[parameter] = layer.name

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        example_input: Any,
        unit: str | Sequence[str] = "module",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[str]] | str | None = None,
        forward: Forward | None = None,
    ) -> LayerMap:
        """Find the layers of a model by running it once.

        Depth is the order in which modules first run; a module that never runs (it may be used
        functionally by its parent) follows the one registered before it. The model, its mode,
        buffers and the random state are left as found. Wrappers (torch.compile, DataParallel,
        DistributedDataParallel) are left out of names and are not run.

        Blocks: the outermost composite members of lists (Sequential, ModuleList, ModuleDict) with
        no chain inside. *Composite*: at least two weight matrices (parameters of two or more
        dimensions), and parameters in more than one module; or of the class of a composite member
        of the same list. *Chain*: a list whose composite members
        are of one class (two or more, or one alone in its list) and follow one another: each takes
        what the one before returned, which the example shows; without one every such list counts.
        So a stage that is itself listed is no block but its residual blocks are; a dense block or a
        layer with experts is one block, since what is listed inside does not follow. A Sequential
        directly inside another only groups.

        Stages: the lists that blocks stand in, or the module that holds such a list where it is
        itself listed among its kind: a stage with its own downsampling.

        Args:
            model: Any module.
            example_input: What the model eats: a tensor, a tuple of positional arguments or a
                dict of named ones; with ``forward``, a batch. ``None`` runs nothing: layers stand
                in order of registration.
            unit: ``"tensor"`` (each parameter), ``"module"`` (each module that owns parameters
                itself), ``"block"``, ``"stage"``, or patterns that name the modules which make a
                unit, e.g. ``["encoder.*"]``. Modules outside blocks, stages and patterns are layers
                of their own. A parametrised module (``torch.nn.utils.parametrize``) is one layer
                with all that its parametrisations own.
            include: Keep only layers whose name matches one of these glob patterns.
            exclude: Drop layers whose name matches one of these.
            groups: Patterns by label, each layer in one at most, or ``"thirds"`` for early, middle
                and late.
            forward: How to run the model on the example, e.g. ``task.forward``.

        Raises:
            LayerscopeError: The example does not run, a pattern or unit matches nothing, groups
                overlap, or the model has no parameters, lazy ones that no batch has initialised,
                or TorchScript modules.
        """
        found, aliases = discover(model, example_input, unit, forward)
        layers = _filtered(found, include, exclude)
        if not layers:
            raise LayerscopeError(
                f"no layer with parameters is left in {type(model).__name__}.",
                "Relax include and exclude.",
            )
        layers = [replace(layer, depth=depth) for depth, layer in enumerate(layers)]
        return cls(tuple(_grouped(layers, groups)), aliases)

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], buffers: Collection[str] = ()
    ) -> LayerMap:
        """Layers of a model that is not there, from the names of its tensors.

        A layer is a module: all tensors whose names are equal but for the last part. Depth is the
        order in which modules are first named. Which tensors are tied or trained is not known:
        none and all.

        Args:
            shapes: Shape of every tensor by name, in order.
            buffers: Names of those that are not parameters.

        Raises:
            LayerscopeError: None of them is a parameter.
        """
        owned: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            owned.setdefault(name.rpartition(".")[0] or name, {})[name] = shape
        layers: list[Layer] = []
        for module, tensors in owned.items():
            parameters = {n: s for n, s in tensors.items() if n not in buffers}
            rest = {n: s for n, s in tensors.items() if n in buffers}
            if parameters:
                layers.append(Layer(module, len(layers), "", (module,), parameters, rest))
        if not layers:
            raise LayerscopeError(
                "there is no tensor that could be a parameter.", "Import the weights of a model."
            )
        return cls(tuple(layers))

    def __repr__(self) -> str:
        rows = [tuple(map(html.text, _row(layer))) for layer in self.layers]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        head, *lines = (
            "  ".join(map(str.ljust, line, widths)).rstrip() for line in (COLUMNS, *rows)
        )
        return "\n".join([f"LayerMap of {self._size}", head, *html.shortened(lines)])

    def _repr_html_(self) -> str:
        rows = [_row(layer) for layer in self.layers]
        return html.block(html.heading("LayerMap", self._size), html.table(COLUMNS, rows))

    @property
    def _size(self) -> str:
        n = sum(layer.n_parameters for layer in self.layers)
        return f"{len(self)} layers, {n:,} parameters"

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> Layer:
        if name not in self.names:
            raise unknown("layer", name, self.names)
        return self.layers[self.names.index(name)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of every layer, by depth."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Name of every parameter, layer by layer."""
        return tuple(name for layer in self.layers for name in layer.parameters)

    @cached_property
    def owner(self) -> Tensor:
        """For every entry of `parameter_names` the index of its layer."""
        return owners([len(layer.parameters) for layer in self.layers])

    def values(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """The layers' parameters out of a mapping by name, in the order of `parameter_names`."""
        return [tensors[name] for name in self.parameter_names]

    def with_dimensions(self, minimum: int) -> LayerMap:
        """Only parameters with at least ``minimum`` dimensions, and entries; layers that have any.

        With 2 these are the matrices and filters: no bias, no affine part of a normalisation.

        Raises:
            LayerscopeError: Nothing is left.
        """
        kept = [
            replace(
                layer,
                parameters={
                    n: s
                    for n, s in layer.parameters.items()
                    if len(s) >= minimum and math.prod(s) > 0
                },
            )
            for layer in self.layers
        ]
        kept = tuple(layer for layer in kept if layer.parameters)
        if not kept:
            raise LayerscopeError(
                f"no parameter has {minimum} or more dimensions.",
                "Lower minimum_dimensions of the probe, or include more layers.",
            )
        return LayerMap(kept, self.aliases)

    def only(self, patterns: Sequence[str]) -> LayerMap:
        """The layers whose names match one of these glob patterns, depths as they are.

        Raises:
            LayerscopeError: A pattern matches no layer.
        """
        return LayerMap(tuple(_filtered(list(self.layers), patterns, None)), self.aliases)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        fields = ("name", "depth", "kind", "group", "trained")
        layers = [
            {name: getattr(layer, name) for name in fields}
            | {"modules": list(layer.modules)}
            | {"parameters": {k: list(v) for k, v in layer.parameters.items()}}
            | {"buffers": {k: list(v) for k, v in layer.buffers.items()}}
            for layer in self.layers
        ]
        return {"layers": layers, "aliases": dict(self.aliases)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayerMap:
        """The map that `to_json` wrote."""
        layers = (
            Layer(
                name=entry["name"],
                depth=entry["depth"],
                kind=entry["kind"],
                group=entry["group"],
                trained=entry.get("trained", True),
                modules=tuple(entry["modules"]),
                parameters={k: tuple(v) for k, v in entry["parameters"].items()},
                buffers={k: tuple(v) for k, v in entry["buffers"].items()},
            )
            for entry in values["layers"]
        )
        return cls(tuple(layers), values["aliases"])


def _row(layer: Layer) -> tuple[str | int, ...]:
    """A layer for people, see `COLUMNS`."""
    kind = layer.kind if layer.trained else f"{layer.kind}, frozen"
    shapes = ", ".join("x".join(map(str, shape)) or "1" for shape in layer.parameters.values())
    return layer.depth, layer.name, kind, layer.group, layer.n_parameters, shapes


def _matches(layers: Iterable[Layer], patterns: Sequence[str], option: str) -> set[str]:
    names = [layer.name for layer in layers]
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise LayerscopeError(
                f"the {option} pattern {pattern!r} matches no layer.",
                f"Layers are called {preview(names)}.",
            )
        found |= hits
    return found


def _filtered(
    layers: list[Layer], include: Sequence[str] | None, exclude: Sequence[str] | None
) -> list[Layer]:
    kept = {layer.name for layer in layers}
    if include is not None:
        kept &= _matches(layers, include, "include")
    if exclude is not None:
        kept -= _matches(layers, exclude, "exclude")
    return [layer for layer in layers if layer.name in kept]


def _grouped(layers: list[Layer], groups: Mapping[str, Sequence[str]] | str | None) -> list[Layer]:
    if groups is None:
        return layers
    if isinstance(groups, str):
        if groups != "thirds":
            raise LayerscopeError(f"unknown grouping {groups!r}.", 'Use "thirds" or a mapping.')
        n = len(layers)
        return [replace(layer, group=THIRDS[3 * i // n]) for i, layer in enumerate(layers)]
    labels: dict[str, str] = {}
    for label, patterns in groups.items():
        for name in sorted(_matches(layers, patterns, f"group {label!r}")):
            if name in labels:
                raise LayerscopeError(
                    f"layer {name!r} belongs to groups {labels[name]!r} and {label!r}.",
                    "Every layer belongs to one group at most: make the patterns disjoint.",
                )
            labels[name] = label
    return [replace(layer, group=labels.get(layer.name, "")) for layer in layers]
