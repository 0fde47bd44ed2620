"""``layerscope list``: names and headlines from sources, so that nothing heavy is imported.

Only the sites of a model need the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from layerscope import catalogue
from layerscope.cli.choices import parse, take_known
from layerscope.cli.options import Listing, Sites
from layerscope.cli.output import out
from layerscope.cli.sites import sites


def listing(words: list[str]) -> None:
    """Print a table of each kind, or of one, or of the sites of a model."""
    from rich.table import Table

    rest = list(words)
    if take_known(rest, "sites".__eq__, Sites):
        sites(rest)
        return
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
