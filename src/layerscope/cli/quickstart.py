"""``layerscope quickstart``."""

from __future__ import annotations

from dataclasses import replace

from layerscope.cli.choices import parse
from layerscope.cli.options import Quickstart
from layerscope.cli.output import bar, command_line, print_path, print_table
from layerscope.config import FCN, SGD, Digits, RunConfig


def quickstart(words: list[str]) -> None:
    """Train on digits, measure every layer, write a report."""
    options = parse(Quickstart, words, "quickstart")
    from layerscope.probes import (
        GeneralisationBound,
        GradientMagnitude,
        Reinitialisation,
        measure_all,
    )
    from layerscope.report.measurements import stacked
    from layerscope.report.publish import write_report
    from layerscope.training.loop import train
    from layerscope.training.problem import restore

    config = RunConfig(
        model=FCN(depth=3, width=256), data=Digits(), optimizer=SGD(0.1), epochs=options.epochs
    )
    runs = []
    with bar("training", options.epochs * len(options.seeds)) as advance:
        for index, seed in enumerate(options.seeds):
            chosen = replace(config, seed=seed)
            before = index * options.epochs
            run = train(
                chosen,
                options.out / "runs" / chosen.hash,
                accelerator="cpu",
                advance=lambda done, total, b=before: advance(b + options.epochs * done // total),
            )
            made = restore(run)
            probes = (GradientMagnitude(), Reinitialisation(), GeneralisationBound())
            measure_all(probes, run, **made.given)
            runs.append(run)
            advance(before + options.epochs)
    print_table(stacked(runs))
    title, command = "How each layer learned to read digits", command_line("quickstart", words)
    print_path("report", write_report(runs, options.out / "report.html", title, command))
