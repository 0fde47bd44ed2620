"""Numbers, figures and tables of a recording in Weights & Biases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.integrations.libraries import check_arguments, library
from layerscope.recording.sinks import ROOT, Cell
from layerscope.runs.manifest import Status

STEP = f"{ROOT}/step"
"""The metric that layerscope's charts have as their horizontal axis."""


class WandB:
    """Logs to a run of Weights & Biases, as a sink of `layerscope.Recorder`.

    ::

        Recorder(..., sinks=[WandB("my-project", mode="offline")])
        Recorder(..., sinks=[WandB(run=wandb.init(...))])  # beside the user's own metrics

    W&B drops what comes with a smaller step than the last, and the recorder writes in batches.
    So charts of layerscope have a step of their own, ``layerscope/step``, and W&B's counts its
    calls. In a run of one's own that moves the counter on: log one's own metrics without
    ``step=``, with a step metric (``run.define_metric``) where that matters.

    Args:
        project: Project of a new run; by default what W&B is configured for.
        run: A run of one's own instead; it is not finished.
        init: Further arguments of ``wandb.init`` for a new run: ``name``, ``mode``, ``dir``, ...

    Raises:
        LayerscopeError: wandb is not installed, an argument is none of ``wandb.init``, or a run
            and arguments for a new one are given.
    """

    def __init__(self, project: str | None = None, *, run: Any = None, **init: Any) -> None:
        self._library = library("wandb", "wandb", "WandB")
        check_arguments(self._library.init, "wandb.init", init)
        self._init = init if project is None else {"project": project, **init}
        if run is not None and self._init:
            raise LayerscopeError(
                f"WandB is given a run and {', '.join(self._init)}.",
                "Give the run alone, or what a new one takes.",
            )
        self._own = run is None
        self._run: Any = run
        self._step = 0

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Start a run beside any other of this process, or go on with one."""
        if self._own:
            again = {"id": state["id"], "resume": "allow"} if state else {}
            self._run = self._library.init(**{"reinit": "create_new", **self._init, **again})
        self._run.config.update(dict(config), allow_val_change=True)
        self._run.define_metric(STEP)
        self._run.define_metric(f"{ROOT}/*", step_metric=STEP)
        return {"id": self._run.id}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log a row of the history."""
        self._step = max(self._step, step)
        self._run.log({STEP: step, **values})

    def figure(self, name: str, png: bytes) -> None:
        """Log an image."""
        from PIL import Image

        image = Image.open(io.BytesIO(png))
        self._run.log({STEP: self._step, name: self._library.Image(image)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Log a table."""
        data = [list(row) for row in rows]
        made = self._library.Table(columns=list(columns), data=data, allow_mixed_types=True)
        self._run.log({STEP: self._step, name: made})

    def finish(self, status: Status) -> None:
        """Finish the run, if it is none of the user's."""
        if self._own:
            self._run.finish(exit_code=0 if status == "complete" else 1)
