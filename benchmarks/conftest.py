"""Tables of ratios, printed when all benchmarks have run."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from benchmarks.timing import CLOCK
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


@dataclass
class Tables:
    """Rows by title of their table, in the order in which they came.

    Columns whose name begins with a capital hold text, the others numbers.
    """

    headers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)

    def add(self, title: str, header: Sequence[str], row: Iterable[object]) -> None:
        self.headers.setdefault(title, tuple(header))
        self.rows.setdefault(title, []).append(tuple(map(str, row)))

    def render(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=130, highlight=False)
        for title, header in self.headers.items():
            table = Table(title=title, box=SIMPLE, title_justify="left")
            for name in header:
                table.add_column(name, justify="left" if name[0].isupper() else "right")
            for row in self.rows[title]:
                table.add_row(*row)
            console.print(table)
        return text.getvalue()


TABLES = pytest.StashKey[Tables]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--threads",
        type=int,
        default=1,
        help="threads that train and record; more than one needs as many idle cores",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("jaxtyping_packages", None):
        raise pytest.UsageError("types are checked at run time: run pytest on benchmarks alone")
    config.stash[TABLES] = Tables()
    torch.set_num_threads(config.getoption("--threads"))


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> Tables:
    return pytestconfig.stash[TABLES]


@pytest.fixture
def replay(benchmark) -> Callable[[Sequence[float]], None]:
    """Give samples that were taken in turns to pytest-benchmark; mark the test with `CLOCK`."""

    def run(samples: Sequence[float]) -> None:
        benchmark.pedantic(CLOCK.advance(samples), rounds=len(samples))

    return run


@pytest.hookimpl(trylast=True)  # below the tables of pytest-benchmark
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tables = terminalreporter.config.stash[TABLES]
    if not tables.rows:
        return
    threads = torch.get_num_threads()
    machine = f"{platform.machine()}, torch {torch.__version__}, {threads} thread"
    terminalreporter.section(f"layerscope benchmarks: {machine}{'s' if threads > 1 else ''}")
    terminalreporter.write(tables.render())
