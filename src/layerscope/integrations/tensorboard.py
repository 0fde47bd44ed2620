"""Numbers, figures and tables of a recording in TensorBoard."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerscope.integrations.libraries import library, one_of
from layerscope.recording.sinks import ROOT, Cell
from layerscope.runs.manifest import Status


class TensorBoard:
    """Writes event files, as a sink of `layerscope.Recorder`.

    ::

        Recorder(..., sinks=[TensorBoard("runs/tb")])
        Recorder(..., sinks=[TensorBoard(writer=writer)])  # beside the user's own scalars

    Numbers are scalars over the recorder's steps, in single precision as TensorBoard keeps them;
    figures are images at the last step, tables and the configuration texts in Markdown.

    Args:
        folder: Where event files go.
        writer: A ``torch.utils.tensorboard.SummaryWriter`` of one's own instead; it stays open.

    Raises:
        LayerscopeError: TensorBoard is not installed, or not one of both is given.
    """

    def __init__(self, folder: str | Path | None = None, *, writer: Any = None) -> None:
        one_of("TensorBoard", folder=folder, writer=writer)
        self._library = library("torch.utils.tensorboard", "tensorboard", "TensorBoard")
        self._folder = folder
        self._writer: Any = writer
        self._step = 0

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Open an event file, also beside those of an interrupted run."""
        if self._writer is None:
            self._writer = self._library.SummaryWriter(str(self._folder))
        text = json.dumps(config[ROOT], indent=1, default=str)
        if not state:
            self._writer.add_text(f"{ROOT}/configuration", f"```json\n{text}\n```", 0)
        return {"folder": str(self._writer.log_dir)}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars, and leave none of them in memory only."""
        self._step = max(self._step, step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def figure(self, name: str, png: bytes) -> None:
        """Write an image."""
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._writer.add_image(name, pixels, self._step, dataformats="HWC")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Write a table in Markdown."""
        lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._writer.add_text(name, text, self._step)

    def finish(self, status: Status) -> None:
        """Close the event file, if it is none of the user's."""
        del status
        self._writer.flush()
        if self._folder is not None:
            self._writer.close()
            self._writer = None


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    text = f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
