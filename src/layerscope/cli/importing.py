"""``layerscope import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.cli.choices import parse
from layerscope.cli.options import Import
from layerscope.cli.output import out
from layerscope.config import CustomModel
from layerscope.errors import LayerscopeError

if TYPE_CHECKING:
    from layerscope.runs.store import Run


def importing(words: list[str]) -> None:
    """Make a run of checkpoints that exist already, and say what was found."""
    options = parse(Import, words, "import")
    if options.model is None and options.arguments != Import.arguments:
        raise LayerscopeError(
            "--arguments is given without --model.",
            "Name the model's factory too: --model package.module:function.",
        )
    from layerscope.models.factory import custom
    from layerscope.runs.store import Run

    model = None
    if options.model is not None:
        model = custom(CustomModel(factory=options.model, arguments=options.arguments))
    run = Run.from_checkpoints(
        options.out,
        _one_or_many(options.checkpoints),
        model,
        key=options.key,
        copy=options.copy,
        steps_per_epoch=options.steps_per_epoch,
    )
    _print(run, model is not None)


def _one_or_many(given: Sequence[str]) -> str | Sequence[str]:
    """A pattern or path; several are what a shell makes of a pattern."""
    if not given:
        raise LayerscopeError(
            "no checkpoints were given.", "Name them, e.g. layerscope import 'out/checkpoint-*'."
        )
    return given[0] if len(given) == 1 else given


def _print(run: Run, with_model: bool) -> None:
    """What was found, and what to do next."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(run, with_model):
        table.add_row(name, value)
    out.print(table)
    folder = str(run.path)
    out.print("\nNext:", style="bold")
    for command in (f"measure weight_change {folder}", f"report {folder}"):
        out.print(f"  layerscope {command}", soft_wrap=True, highlight=False)


def _facts(run: Run, with_model: bool) -> list[tuple[str, str]]:
    from layerscope.networks.discovery import preview

    notes: dict[str, Any] = run.manifest["notes"]["imported"]
    names, steps = run.layers.names, [f"{step:,}" for step in run.steps]
    rows = [("format", notes["format"])]
    if notes["key"]:
        rows.append(("weights under", notes["key"]))
    rows.append(("checkpoints", f"{len(steps)}, {'copied' if notes['copied'] else 'not copied'}"))
    rows.append(("steps", _ends(steps)))
    rows.append(("prefixes left out", ", ".join(notes["prefixes"]) or "none"))
    if notes["left_out"]:
        rows.append(("tensors left out", preview(notes["left_out"])))
    source = "the model" if with_model else "names; --model gives their kinds and order"
    rows.append((f"{len(names)} layers", f"{_ends(names)} (from {source})"))
    if 0 not in run.steps:
        rows.append(("no step 0", "distances from initialisation cannot be measured"))
    rows.append(("run", str(Path(run.path))))
    return rows


def _ends(items: Sequence[str]) -> str:
    """A list, shortened in the middle."""
    return ", ".join(items if len(items) <= 8 else [*items[:4], "...", *items[-3:]])
