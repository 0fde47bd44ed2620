"""``layerscope run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from layerscope.cli.choices import given_paths, parse, take, take_name
from layerscope.cli.options import RunRecipe
from layerscope.cli.output import bar, command_line, print_path, print_verdicts
from layerscope.config import RunConfig
from layerscope.config.paths import get_path
from layerscope.errors import LayerscopeError


def run(words: list[str]) -> None:
    """Reproduce a figure or table: runs, measurements, verdicts, report."""
    rest, default = list(words), RunConfig()
    if "-h" not in words and "--help" not in words:
        from layerscope.recipes import find, recipes

        if name := take_name(rest, recipes().__contains__, RunRecipe):
            _, default = next(iter(find(name).plan(_scale(words)).variants.values()))
            rest = [name, *rest]
    start = RunRecipe(recipe=tyro.MISSING, config=default)
    options = parse(RunRecipe, rest, "run", default=start)
    from layerscope.recipes import find
    from layerscope.reproduce import reproduce

    changes = {path: get_path(options.config, path) for path in given_paths(words, default)}
    if "seed" in changes:
        raise LayerscopeError("a recipe has several seeds.", "Use --seeds 0 1 2.")
    study = find(options.recipe)(options.scale, changes, options.seeds)
    sinks = [_sink(name, options.out) for name in options.sinks]
    with bar(f"{len(study.runs())} runs") as advance:
        result = reproduce(
            study,
            options.out,
            processes=options.processes,
            threads=options.threads,
            data_root=options.machine.data_root,
            accelerator=options.machine.accelerator,
            command=command_line("run", words),
            advance=advance,
            sinks=sinks,
        )
    print_verdicts(result.verdicts)
    for path in result.files:
        print_path(path.name if path.is_file() else "figures", path)


def _sink(name: str, out: Path) -> Any:
    from layerscope import integrations

    match name:
        case "tensorboard":
            return integrations.TensorBoard(out / "tensorboard")
        case "wandb":
            return integrations.WandB("layerscope")
        case "mlflow":
            return integrations.MLflow("layerscope")
    return integrations.Trackio("layerscope")


def _scale(words: Sequence[str]) -> Literal["paper", "small", "smoke"]:
    """The scale that words name, whose settings the help shows; tyro refuses what is none."""
    given = take(list(words), "--scale")
    return given if given in ("paper", "small", "smoke") else "small"
