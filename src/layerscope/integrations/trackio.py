"""Numbers, figures and tables of a recording in Trackio."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.integrations.libraries import check_arguments, library, one_of
from layerscope.recording.sinks import Cell
from layerscope.runs.manifest import Status


class Trackio:
    """Logs to a run of Trackio, as a sink of `layerscope.Recorder`.

    ::

        Recorder(..., sinks=[Trackio("my-project")])
        Recorder(..., sinks=[Trackio(run=trackio.init("my-project"))])  # beside one's own metrics

    Trackio has one run at a time: starting one finishes the one before, so that where one's own
    is open it has to be passed. It says itself, as a warning, what it could not send.

    Args:
        project: Project of a new run.
        run: A run of one's own instead; it is not finished.
        init: Further arguments of ``trackio.init`` for a new run: ``name``, ``space_id``, ...

    Raises:
        LayerscopeError: trackio is not installed, an argument is none of ``trackio.init``, or not
            one of project and run is given.
    """

    def __init__(self, project: str | None = None, *, run: Any = None, **init: Any) -> None:
        one_of("Trackio", project=project, run=run)
        self._library = library("trackio", "trackio", "Trackio")
        check_arguments(self._library.init, "trackio.init", init)
        if run is not None and init:
            one_of("Trackio", run=run, **init)
        self._project = project
        self._init = {"embed": False, **init}
        self._run: Any = run
        self._step = 0

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Start a run, or go on with one."""
        if self._project is not None:
            again = {"name": state["name"], "resume": "allow"} if state else {}
            given = {"config": dict(config), **self._init, **again}
            self._run = self._library.init(self._project, **given)
        return {"name": str(self._run.name)}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self._step = max(self._step, step)
        self._run.log(dict(values), step)

    def figure(self, name: str, png: bytes) -> None:
        """Log an image."""
        from PIL import Image

        self._run.log({name: self._library.Image(Image.open(io.BytesIO(png)))}, self._step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Log a table."""
        data = [list(row) for row in rows]
        self._run.log({name: self._library.Table(columns=list(columns), data=data)}, self._step)

    def finish(self, status: Status) -> None:
        """Finish the run, if it is none of the user's."""
        del status
        if self._project is None:
            return
        current = self._library.context_vars.current_run
        self._run.finish()
        if current.get() is self._run:  # else it would be finished again when the process ends
            current.set(None)
