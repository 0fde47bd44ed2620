"""The command line, a module for each command. Nothing heavy is imported before one needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from layerscope.cli import importing, listing, measure, quickstart, report, run, train, watch
from layerscope.cli.output import out
from layerscope.errors import LayerscopeError, unknown

__all__ = ["COMMANDS", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error that the user can mend.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _overview()
        return 0
    try:
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        COMMANDS[words[0]][1](words[1:])
    except LayerscopeError as error:
        message = Console(stderr=True, soft_wrap=True, highlight=False)
        message.print("[bold red]error:[/]", end=" ")
        message.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; what was recorded is kept.")
        return 130
    return 0


def _overview() -> None:
    from rich.table import Table

    out.print("[bold]layerscope[/]: see how every layer of a neural network learns\n")
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 2))
    for name, (summary, _) in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", summary)
    out.print(table)
    out.print("\nlayerscope COMMAND --help shows a command's options.")


COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "quickstart": (
        "train on digits, measure every layer, write a report: start here",
        quickstart.quickstart,
    ),
    "list": ("show recipes, probes, models, data sets or a model's sites", listing.listing),
    "train": ("train and record one network", train.train),
    "run": ("reproduce a figure or table of a paper and decide its claims", run.run),
    "import": ("make a run of checkpoints that exist already", importing.importing),
    "measure": ("measure a run from its checkpoints", measure.measure),
    "watch": ("watch a run that is still going, here or in the browser", watch.watch),
    "figure": ("draw the figures of a run as PNG and PDF", report.figure),
    "report": ("write the interactive report on one or more runs", report.report),
}
