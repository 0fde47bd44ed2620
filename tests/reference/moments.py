"""What a probe measures at every checkpoint, each moment put together anew from the files."""

from __future__ import annotations

from layerscope.probes import FoldingProbe, Moment


def rows(probe, run, steps, **given):
    """What ``probe.measure`` returns at each of these steps, by step."""

    def read(step):
        return dict(run.checkpoint(step))

    found = {}
    for before, step in zip([None, *steps], steps, strict=False):
        needed = probe.needed
        if before is None and "previous" in needed and not isinstance(probe, FoldingProbe):
            continue
        moment = Moment(
            step,
            read(step),
            previous=read(step if before is None else before),
            initial=read(0),
            final=read(steps[-1]),
            learning_rate=run.learning_rate(step),
            **{name: value for name, value in given.items() if name in needed},
        )
        found[step] = probe.measure(moment, probe.select(run.layers))
    return found
