"""``layerscope list sites``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerscope.cli.choices import data_config, model_config, parse, take
from layerscope.cli.options import Sites
from layerscope.cli.output import out
from layerscope.config import MODELS, CustomModel, RunConfig
from layerscope.errors import LayerscopeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerscope.networks.sites import Site


def sites(words: list[str]) -> None:
    """Print where activation functions act in a model that is built, not trained."""
    rest = list(words)
    model, data = model_config(take(rest, "--model")), data_config(take(rest, "--data"))
    about = inspect.cleandoc(Sites.__doc__ or "").partition("\n\nAttributes:")[0]
    about += f"\n\nModels: {', '.join(MODELS)}."
    default = Sites(model=model, data=data)
    options = parse(Sites, rest, "list sites", default=default, description=about)
    from layerscope.networks.surgery import linearise
    from layerscope.training.problem import untrained

    config = RunConfig(model=options.model, data=options.data, removed=options.removed)
    built, example = untrained(config, options.data_root)
    found = _found(built, example)
    if options.linear:
        found = _found(linearise(built, options.linear, example), example)
    chosen = options.model
    name = chosen.factory if isinstance(chosen, CustomModel) else chosen.known_as
    shape = " x ".join(map(str, example.shape[1:]))
    number = f"{len(found)} {'site' if len(found) == 1 else 'sites'}" if found else "no site"
    head = f"{name} on inputs of {shape}: {number} where an activation function acts"
    out.print(head, soft_wrap=True)
    if found:
        _print(found)


def _found(model: nn.Module, example: Tensor) -> tuple[Site, ...]:
    """The sites; where the model does not run, the data are the wrong ones."""
    from layerscope.networks.sites import find_sites

    try:
        return find_sites(model, example)
    except LayerscopeError as error:
        raise LayerscopeError(
            f"{error.message.rstrip('.')}. The example was zeros of {tuple(example.shape)}.",
            "Choose the data that the model is made for, e.g. --data cifar10.",
        ) from error


def _print(found: Sequence[Site]) -> None:
    """One row per site; names stand whole on one line, so that they can be copied and searched."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("position", justify="right")
    for header in ("name", "kind", "behind", "gated", "linear"):
        table.add_column(header, no_wrap=True)
    for site in found:
        flags = ("yes" if flag else "no" for flag in (site.gated, site.linear))
        table.add_row(str(site.index), site.name, site.kind, site.behind or "the input", *flags)
    widest = out.options.update(max_width=sys.maxsize)
    Console(width=Measurement.get(out, widest, table).maximum).print(table)
