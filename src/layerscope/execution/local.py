"""Execute runs on this machine: one after the other, or several processes sharing its cores."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layerscope.config import RunConfig
from layerscope.display.progress import silence
from layerscope.errors import LayerscopeError
from layerscope.probes import Probe, measure_all
from layerscope.studies.study import Outcome
from layerscope.training.loop import train_or_wait
from layerscope.training.problem import restore

Progress = Callable[[int, int, int], None]
REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One run to train (or reuse) and to measure.

    Attributes:
        config: The run.
        path: Its folder.
        probes: What to measure from its checkpoints.
        data_root: Folder of local data sets.
        accelerator: Where to train, as Lightning Fabric names it.
    """

    config: RunConfig
    path: Path
    probes: tuple[Probe, ...]
    data_root: str | None = None
    accelerator: str = "auto"


def execute(job: Job, advance: Callable[[int, int], None]) -> Outcome:
    """Train and measure one run; a problem the user can mend becomes part of the outcome.

    Where another process trains this run, e.g. because another run starts from its weights, wait.

    Args:
        job: The run.
        advance: Called with (units done, units in all): steps of training, then measurements.
    """
    started = time.monotonic()
    reused = (job.path / "run.json").exists()
    try:
        run = train_or_wait(
            job.config,
            job.path,
            data_root=job.data_root,
            accelerator=job.accelerator,
            advance=advance,
        )
        if run.status != "complete":
            return Outcome(job.path, run.missing, time.monotonic() - started, reused)
        made = restore(run, job.data_root)
        measure_all(job.probes, run, **made.given)
    except LayerscopeError as error:
        return Outcome(job.path, str(error), time.monotonic() - started, reused)
    name, fidelity = made.dataset.name, made.dataset.fidelity
    said = f"{name}: {fidelity}" if fidelity else ""
    return Outcome(job.path, "", time.monotonic() - started, reused, said)


@dataclass(frozen=True)
class LocalExecutor:
    """Map jobs over processes of this machine.

    Attributes:
        processes: Processes at once; by default one per core and no more than jobs, or one where
            there is an accelerator. With 1 everything happens in this process.
        threads: Threads of each process; by default a fair share of the cores.
    """

    processes: int | None = None
    threads: int | None = None

    def map(self, jobs: Sequence[Job], progress: Progress | None = None) -> list[Outcome]:
        """Execute every job.

        Args:
            jobs: The runs.
            progress: Called in this process with (job, units done, units in all).

        Returns:
            One outcome per job, in order; a run that failed does not stop the others.

        Raises:
            LayerscopeError: A worker process died.
        """
        cores = os.cpu_count() or 1
        most = 1 if torch.accelerator.is_available() else cores
        processes = min(self.processes or most, max(len(jobs), 1))
        threads = self.threads or max(1, cores // processes)
        report = progress or _ignore
        if processes == 1:
            return [_here(index, job, report) for index, job in enumerate(jobs)]
        return _in_processes(jobs, processes, threads, report)


def _ignore(job: int, done: int, total: int) -> None:
    del job, done, total


def _here(index: int, job: Job, report: Progress) -> Outcome:
    return execute(job, _throttled(lambda done, total: report(index, done, total)))


def _throttled(send: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Pass on a few messages a second, and always the last."""
    last = 0.0

    def advance(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            send(done, total)

    return advance


_messages: Any = None


def _start_worker(messages: Any, threads: int) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(threads)
    silence()  # the process that started this one shows how far all are


def _work(index: int, job: Job) -> Outcome:
    return execute(job, _throttled(lambda done, total: _messages.put((index, done, total))))


def _in_processes(
    jobs: Sequence[Job], processes: int, threads: int, report: Progress
) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    with ProcessPoolExecutor(processes, context, _start_worker, (messages, threads)) as pool:
        futures = [pool.submit(_work, index, job) for index, job in enumerate(jobs)]
        try:
            _follow(futures, messages, report)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise LayerscopeError(
                "a worker process died, perhaps for lack of memory.",
                "Use fewer processes (--processes 1); finished runs are kept and reused.",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow(futures: Sequence[Future[Outcome]], messages: Any, report: Progress) -> None:
    """Report progress until every future is done."""
    pending = set(futures)
    while pending:
        _, pending = wait(pending, timeout=REPORT_SECONDS, return_when=FIRST_COMPLETED)
        while True:
            try:
                report(*messages.get_nowait())
            except queue.Empty:
                break
