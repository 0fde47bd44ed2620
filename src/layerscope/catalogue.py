"""What the package holds, read from its sources: names and headlines, and nothing is imported.

Probes, models, data sets and recipes are found where they are defined, so that one file is all that
a new one takes. Importing them all to say their names would cost seconds of torch; what is wanted
is imported when it is looked up (`Classes`).
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from layerscope.errors import LayerscopeError

SOURCES = Path(__file__).parent
LAST = 1000
"""Place of a probe that names none: after those that do."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One probe, model, data set or recipe.

    Attributes:
        name: What a user writes.
        headline: What it is, in one line.
        module: Where it is defined.
        symbol: Name of its class or function there.
    """

    name: str
    headline: str
    module: str
    symbol: str

    def load(self) -> Any:
        """The class or function itself; its module is imported."""
        return getattr(importlib.import_module(self.module), self.symbol)


class Classes(Mapping[str, type[T]]):
    """Classes by name; looking one up imports its module, asking for names imports nothing.

    Args:
        entries: Gives the entries; asked at every look-up.
    """

    def __init__(self, entries: Callable[[], Mapping[str, Entry]]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> type[T]:
        return self._entries()[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, name: object) -> bool:
        return name in self._entries()


@cache
def probes(sources: Path = SOURCES) -> Mapping[str, Entry]:
    """Every probe by name: the public dataclasses in ``probes/`` that derive from `Probe`.

    The headline is the literal ``summary`` of the class. The order is that of their literal
    ``place``, which they also have in reports.

    Args:
        sources: Folder of the package.

    Raises:
        LayerscopeError: A file cannot be read as Python, a probe has no literal ``summary`` or
            ``place``, or two have one name.
    """
    found = []
    roots = {"Probe", "MomentProbe", "TrajectoryProbe"}
    for module, node in _derived(_classes(sources, "probes"), roots):
        if node.name.startswith("_") or "dataclass" not in map(_name, node.decorator_list):
            continue
        place = _assigned(module, node, "place", LAST)
        headline = _assigned(module, node, "summary", None)
        found.append((place, Entry(snake(node.name), headline, module, node.name)))
    found.sort(key=lambda pair: (pair[0], pair[1].name))
    return _by_name(entry for _, entry in found)


@cache
def models(sources: Path = SOURCES) -> Mapping[str, Entry]:
    """Every family of models by name, those of ``config/`` first, then those of ``models/``.

    A family is a class that derives from ``ModelConfig`` and has a ``name``, e.g.
    ``class FCN(ModelConfig, name="fcn", ...)``; the headline is the first line of its docstring.

    Args:
        sources: Folder of the package.

    Raises:
        LayerscopeError: A file cannot be read as Python, a name is no literal, or two are equal.
    """
    return _configurations(sources, "models", "ModelConfig")


@cache
def data(sources: Path = SOURCES) -> Mapping[str, Entry]:
    """Every data set that is a class with a ``name``: those of ``config/`` first, then ``data/``.

    Image sets are rows of `layerscope.data.IMAGE_SETS` and not among them.

    Args:
        sources: Folder of the package.

    Raises:
        LayerscopeError: As for `models`.
    """
    return _configurations(sources, "data", "DataConfig")


def papers(sources: Path = SOURCES) -> tuple[str, ...]:
    """The packages of recipes, one per paper."""
    return tuple(sorted(path.parent.name for path in (sources / "recipes").glob("*/__init__.py")))


@cache
def recipes(package: str, sources: Path = SOURCES) -> Mapping[str, Entry]:
    """Every recipe of a paper by name, in the order of figures and tables.

    A recipe is a function decorated by a call of an attribute of the name ``paper``, e.g.
    ``@paper.recipe("Fig. 2")``; the headline is the first line of its docstring.

    Args:
        package: Folder of the paper's modules below ``sources``, e.g. ``"recipes/some_paper"``.
        sources: Folder of the package.

    Raises:
        LayerscopeError: A file cannot be read as Python, or two recipes have one name.
    """
    found = [
        Entry(node.name, _headline(node), module, node.name)
        for module, tree in _modules(sources, package)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(map(_is_of_paper, node.decorator_list))
    ]
    return _by_name(sorted(found, key=lambda entry: natural(entry.name)))


def natural(name: str) -> tuple[int, int, str]:
    """Sorts fig1, fig1a, fig2, fig10, table1, then other names by letters."""
    match = re.fullmatch(r"(fig|table)(\d+)(.*)", name)
    if match is None:
        return 2, 0, name
    return int(match[1] == "table"), int(match[2]), match[3]


def snake(name: str) -> str:
    """``WeightChange`` as ``weight_change``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _configurations(sources: Path, package: str, root: str) -> Mapping[str, Entry]:
    classes = [*_classes(sources, "config"), *_classes(sources, package)]
    found = [
        Entry(_literal(module, node, keyword.value, "name"), _headline(node), module, node.name)
        for module, node in _derived(classes, {root})
        for keyword in node.keywords
        if keyword.arg == "name"
    ]
    return _by_name(found)


def _modules(sources: Path, package: str) -> Iterator[tuple[str, ast.Module]]:
    """Name and contents of every module in a folder of the package."""
    for path in sorted((sources / package).glob("*.py")):
        name = ".".join([sources.name, *Path(package).parts, path.stem])
        try:
            yield name, ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise LayerscopeError(
                f"{path} cannot be read as Python: {error}.",
                "Mend the file, or take it out of the package.",
            ) from error


def _classes(sources: Path, package: str) -> list[tuple[str, ast.ClassDef]]:
    return [
        (module, node)
        for module, tree in _modules(sources, package)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]


def _derived(
    classes: Iterable[tuple[str, ast.ClassDef]], roots: set[str]
) -> list[tuple[str, ast.ClassDef]]:
    """The classes that derive, also by way of one another, from one of the roots."""
    classes = list(classes)
    known = set(roots)
    while True:
        more = {c.name for _, c in classes if known & set(map(_name, c.bases))} - known
        if not more:
            return [(module, c) for module, c in classes if c.name in known - roots]
        known |= more


def _name(node: ast.expr) -> str:
    """``a`` of ``a``, ``x.a``, ``a(...)`` and ``a[...]``."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_of_paper(node: ast.expr) -> bool:
    """Whether a decorator is ``@paper.something(...)``."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _name(node.func.value) == "paper"
    )


def _assigned(module: str, node: ast.ClassDef, name: str, default: Any) -> Any:
    """The literal that a class assigns to a name.

    Raises:
        LayerscopeError: It assigns something else, or nothing and there is no default.
    """
    for line in node.body:
        match line:
            case (
                ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value)
                | ast.Assign(targets=[ast.Name(id=found)], value=value)
            ) if found == name:
                return _literal(module, node, value, name)
    if default is None:
        raise LayerscopeError(
            f"{node.name} in {module} has no {name}.", f"Give the class a literal {name}."
        )
    return default


def _literal(module: str, node: ast.ClassDef, value: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise LayerscopeError(
            f"{name} of {node.name} in {module} is {ast.unparse(value)}.",
            "Write it out: lists are made from the source, without running it.",
        ) from error


def _headline(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _by_name(entries: Iterable[Entry]) -> Mapping[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found:
            raise LayerscopeError(
                f"{entry.name!r} is defined in {found[entry.name].module} and in {entry.module}.",
                "Give one of them another name.",
            )
        found[entry.name] = entry
    return found
