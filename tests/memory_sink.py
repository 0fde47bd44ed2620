"""A sink that keeps everything in memory and may break."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Memory:
    """Keeps what it is told; raises at the call that ``breaks`` names."""

    breaks: str = ""
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tables: dict[str, tuple] = field(default_factory=dict)
    state: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)

    def _called(self, name):
        self.calls.append(name)
        if name == self.breaks:
            raise OSError("no space left")

    def start(self, config, state):
        self.config, self.state = config, state
        self._called("start")
        return {"id": "abc"}

    def log(self, values, step):
        self._called("log")
        self.rows.append((step, dict(values)))

    def figure(self, name, png):
        self._called("figure")
        assert png.startswith(b"\x89PNG")
        self.tables[name] = ()

    def table(self, name, columns, rows):
        self._called("table")
        self.tables[name] = (columns, rows)

    def finish(self, status):
        self._called("finish")
        self.tables["status"] = status
