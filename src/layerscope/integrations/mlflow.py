"""Numbers, figures and tables of a recording in MLflow."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerscope.integrations.libraries import library, one_of
from layerscope.recording.sinks import ROOT, Cell
from layerscope.runs.manifest import Status

STATUS = {"complete": "FINISHED", "diverged": "FAILED", "interrupted": "KILLED"}
BATCH = 1000
"""Most metrics that MLflow takes at once."""
LONGEST = 6000
"""Most characters of a parameter; longer ones stand whole in ``layerscope/configuration.json``."""


class MLflow:
    """Logs to a run of MLflow, as a sink of `layerscope.Recorder`.

    ::

        Recorder(..., sinks=[MLflow("my experiment")])
        Recorder(..., sinks=[MLflow(run=mlflow.active_run())])  # beside the user's own metrics

    The active run of the process stays what it is. Metrics have the recorder's steps; what MLflow
    does not allow in a name is ``_`` there, with a number where two would be the same. Figures and
    tables are the artifacts ``layerscope/<name>.png`` and ``.json``.

    Args:
        experiment: Name of the experiment for a new run; made where it does not exist.
        run: A run of one's own instead; it is not ended.
        run_name: Name of a new run; by default the folder of the recording.
        tracking_uri: Where MLflow keeps its runs; by default what it is configured for.

    Raises:
        LayerscopeError: mlflow is not installed, or not one of experiment and run is given.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run: Any = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        one_of("MLflow", experiment=experiment, run=run)
        self._library = library("mlflow", "mlflow", "MLflow")
        self._experiment = experiment
        self._run_name = run_name
        self._tracking_uri = tracking_uri
        self._run_id = "" if run is None else str(run.info.run_id)
        self._names: dict[str, str] = {}
        self._client: Any = None

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create a run, or go on with one; its parameters are the configuration."""
        self._client = self._library.MlflowClient(self._tracking_uri)
        if self._experiment is not None:
            self._run_id = state["run_id"] if state else self._create(config)
            self._client.update_run(self._run_id, status="RUNNING")
        if not state:
            text = json.dumps(config[ROOT], indent=1, default=str)
            self._client.log_text(self._run_id, text, f"{ROOT}/configuration.json")
            param = self._library.entities.Param
            params = [param(name, value[:LONGEST]) for name, value in _flat(ROOT, config[ROOT])]
            for i in range(0, len(params), 100):
                self._client.log_batch(self._run_id, params=params[i : i + 100])
        return {"run_id": self._run_id}

    def _create(self, config: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        place = self._client.create_experiment(self._experiment) if found is None else None
        name = self._run_name or str(config[ROOT]["run"])
        id_ = place if found is None else found.experiment_id
        return str(self._client.create_run(id_, run_name=name).info.run_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        now = int(time.time() * 1000)
        metric = self._library.entities.Metric
        made = [metric(self._name(name), value, now, step) for name, value in values.items()]
        for i in range(0, len(made), BATCH):
            self._client.log_batch(self._run_id, metrics=made[i : i + BATCH])

    def figure(self, name: str, png: bytes) -> None:
        """Keep an image."""
        from PIL import Image

        image = Image.open(io.BytesIO(png))
        self._client.log_image(self._run_id, image, artifact_file=f"{self._name(name)}.png")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Keep a table, as MLflow shows tables: JSON by columns."""
        data = {"columns": list(columns), "data": [list(row) for row in rows]}
        text = json.dumps(data, allow_nan=False)
        self._client.log_text(self._run_id, text, f"{self._name(name)}.json")

    def finish(self, status: Status) -> None:
        """End the run, if it is none of the user's."""
        if self._experiment is not None:
            self._client.set_terminated(self._run_id, STATUS[status])

    def _name(self, name: str) -> str:
        """A name that MLflow takes, which no other has."""
        if name not in self._names:
            parts = re.sub(r"[^\w.\- /]", "_", name, flags=re.ASCII).split("/")
            clean = "/".join("_" if part in ("", ".", "..") else part for part in parts)
            taken, n, unique = set(self._names.values()), 1, clean
            while unique in taken:
                n += 1
                unique = f"{clean}_{n}"
            self._names[name] = unique
        return self._names[name]


def _flat(stem: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested values as texts by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{stem}.{name}", value)
        else:
            yield f"{stem}.{name}", str(value)
