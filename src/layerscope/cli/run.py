"""``layerscope run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tyro

from layerscope.cli.choices import get_path, given_paths, parse, set_path, take, take_name
from layerscope.cli.options import RunRecipe
from layerscope.cli.output import bar, command_line, print_path, print_verdicts
from layerscope.config import RunConfig
from layerscope.errors import LayerscopeError


def run(words: list[str]) -> None:
    """Reproduce a figure or table: runs, measurements, verdicts, report."""
    from layerscope.recipes import find, recipes

    rest, default = list(words), RunConfig()
    wants_help = "-h" in words or "--help" in words
    if not wants_help and (name := take_name(rest, recipes().__contains__, RunRecipe)):
        default = next(iter(find(name)(_parse_scale(words)).variants.values()))
        rest = [name, *rest]
    start = RunRecipe(recipe=tyro.MISSING, config=default)
    options = parse(RunRecipe, rest, "run", default=start)
    from layerscope.reproduce import reproduce

    study = find(options.recipe)(options.scale)
    if options.seeds:
        study = replace(study, seeds=options.seeds)
    for path in given_paths(words, default):
        if path == "seed":
            raise LayerscopeError("a recipe has several seeds.", "Use --seeds 0 1 2.")
        value = get_path(options.config, path)
        variants = {name: set_path(config, path, value) for name, config in study.variants.items()}
        study = replace(study, variants=variants, changes=(*study.changes, f"{path}={value}"))
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
        )
    print_verdicts(result.verdicts)
    for path in result.files:
        print_path(path.name if path.is_file() else "figures", path)


def _parse_scale(words: Sequence[str]) -> Any:
    rest = list(words)
    scale = take(rest, "--scale") or "small"
    return scale if scale in ("paper", "small", "smoke") else "small"
