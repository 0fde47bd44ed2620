"""How what a sink wrote is read back, without the sink: by the library's own reader, or by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Found:
    """Numbers by name and step, pictures and tables by name, and how the run ended."""

    numbers: dict[str, dict[int, float]] = field(default_factory=dict)
    times: dict[tuple[str, int], int] = field(default_factory=dict)
    """How often a name came at a step."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    """All that is in a table, as text."""
    configuration: str = ""
    ended: str = ""

    def add(self, name: str, step: int, value: float) -> None:
        self.numbers.setdefault(name, {})[step] = value
        self.times[name, step] = self.times.get((name, step), 0) + 1


def read_tensorboard(folder: Path) -> Found:
    """From event files, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb"), {"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    found = Found()
    tags = events.Tags()
    for name in tags["scalars"]:
        for event in events.Scalars(name):
            found.add(name, event.step, event.value)
    for name in tags["images"]:
        found.pictures[name] = events.Images(name)[-1].encoded_image_string
    for name in tags["tensors"]:
        text = events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        found.tables[name.removesuffix("/text_summary")] = text
    found.configuration = found.tables.pop("layerscope/configuration", "")
    return found


def records(path: Path) -> Iterator[Any]:
    """The records of an offline run of W&B: a log in blocks of 32 KiB, as LevelDB's."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_wandb(folder: Path) -> Found:
    """From the files of the offline runs, which a later `wandb sync` sends."""
    import wandb

    wandb.teardown()  # its service may still be writing when a run is finished
    found = Found()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            if record.HasField("run"):
                found.configuration += "".join(u.value_json for u in record.run.config.update)
            if record.HasField("config"):
                found.configuration += "".join(u.value_json for u in record.config.update)
            if record.HasField("exit"):
                found.ended = str(record.exit.exit_code)
            if record.HasField("history"):
                _add_row(found, path.parent / "files", record.history)
    return found


def _add_row(found: Found, files: Path, history: Any) -> None:
    row = {tuple(i.nested_key) or (i.key,): json.loads(i.value_json) for i in history.item}
    for name in {path[0] for path in row if len(path) > 1}:
        file = files / row[name, "path"]
        if row[name, "_type"] == "image-file":
            found.pictures[name] = file.read_bytes()
        else:
            found.tables[name] = file.read_text()
    step = row.get(("layerscope/step",))
    for (name, *rest), value in row.items():
        if not rest and not name.startswith("_") and name != "layerscope/step":
            found.add(name, -1 if step is None else step, value)


def read_mlflow(folder: Path) -> Found:
    """From MLflow's folder of files, by its client."""
    from mlflow import MlflowClient

    found, client = Found(), MlflowClient(str(folder / "mlflow"))
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.add(name, metric.step, metric.value)
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    for path in root.rglob("*.*"):
        name = str(path.relative_to(root).with_suffix(""))
        if path.suffix == ".png":
            found.pictures[name] = path.read_bytes()
        elif path.suffix == ".json":
            found.tables[name] = path.read_text()
    found.configuration = found.tables.pop("layerscope/configuration")
    found.ended = run.info.status
    return found


def read_trackio(folder: Path) -> Found:
    """From its database, by its own reader."""
    from trackio.sqlite_storage import SQLiteStorage

    found = Found()
    (run,) = SQLiteStorage.get_runs("tests")
    for row in SQLiteStorage.get_logs("tests", run):
        step = row.pop("step")
        del row["timestamp"]
        for name, value in row.items():
            if not isinstance(value, dict):
                found.add(name, step, value)
            elif value["_type"] == "trackio.image":
                found.pictures[name] = (folder / "media" / value["file_path"]).read_bytes()
            else:
                found.tables[name] = json.dumps(value["_value"])
    found.configuration = json.dumps(SQLiteStorage.get_run_config("tests", run))
    return found
