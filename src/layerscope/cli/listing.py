"""``layerscope list``: names and headlines from sources, so that nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from layerscope import catalogue
from layerscope.cli.choices import parse
from layerscope.cli.options import Listing
from layerscope.cli.output import out


def listing(words: list[str]) -> None:
    """Print a table of each kind, or of one."""
    from rich.table import Table

    kind = parse(Listing, words, "list").kind
    for name, rows in _LISTS.items():
        if kind in (None, name):
            table = Table(title=name, title_justify="left", box=None, show_header=False)
            for first, second in rows():
                table.add_row(f"[bold]{first}[/]", second)
            out.print(table)


def _recipes() -> Iterator[tuple[str, str]]:
    for paper in catalogue.papers():
        for name, headline in _rows(catalogue.recipes(f"recipes/{paper}")):
            yield f"{paper}.{name}", headline


def _datasets() -> Iterator[tuple[str, str]]:
    from layerscope.data import IMAGE_SETS

    yield from _rows(catalogue.data())
    for name, row in IMAGE_SETS.items():
        yield name, f"{row.classes} classes, {row.hub} on the Hugging Face hub"


def _rows(entries: Mapping[str, catalogue.Entry]) -> Iterator[tuple[str, str]]:
    return ((entry.name, entry.headline) for entry in entries.values())


_LISTS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "recipes": _recipes,
    "probes": lambda: _rows(catalogue.probes()),
    "models": lambda: _rows(catalogue.models()),
    "data": _datasets,
}
