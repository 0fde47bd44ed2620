"""Drive probes over the checkpoints of a run, each of which is read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import xarray as xr
from torch import nn

from layerscope.display.progress import Advance, reporting
from layerscope.errors import LayerscopeError
from layerscope.networks.task import Task
from layerscope.probes.base import Probe
from layerscope.probes.call import Alone, Call, Shared, noting, together
from layerscope.probes.given import Given
from layerscope.probes.kept import chosen_steps, read_kept
from layerscope.runs.store import Run


def measure(
    probe: Probe,
    run: Run,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    batch: Any = None,
    data: Iterable[Any] | None = None,
    training_data: Iterable[Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
    steps: Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
    recompute: bool = False,
    advance: Advance | None = None,
) -> xr.Dataset:
    """Measure a run from its checkpoints and keep the result in the run.

    The same measurement (probe, settings, checkpoints, layers, batch, data, task, model, version)
    is read back instead of repeated. What cannot be compared, such as a model or a task of code
    that is not PyTorch's or this library's, is measured again. A layer to which the probe does not
    apply has NaN, and the reason in the coordinate ``missing``. Several probes are measured faster
    by `measure_all`.

    Args:
        probe: What to measure.
        run: The run.
        model: A module that takes the run's weights, for probes that need one.
        task: What a batch means, for probes that need it.
        batch: The fixed batch; by default the one stored with the run.
        data: Batches to test on, iterable more than once, for probes that need them.
        training_data: Batches of the training examples, likewise.
        factory: Builds the model anew, for probes that draw fresh weights.
        steps: Checkpoints to use; all by default.
        layers: Patterns of the layers to measure; all by default.
        recompute: Measure again even if the result is there.
        advance: Called with (checkpoints done, checkpoints in all); by default a progress bar,
            where there is a terminal or a notebook.

    Returns:
        A dataset with dimensions ``layer`` and mostly ``step``; every variable has the attributes
        ``long_name``, ``units`` and ``source``.

    Raises:
        LayerscopeError: Something the probe needs is missing, a step is no checkpoint, a pattern
            matches no layer, no layer can be measured, or a checkpoint is damaged.
        DivergedError: Weights are not finite.
    """
    return measure_all(
        [probe],
        run,
        model=model,
        task=task,
        batch=batch,
        data=data,
        training_data=training_data,
        factory=factory,
        steps=steps,
        layers=layers,
        recompute=recompute,
        advance=advance,
    )[probe.key]


def measure_all(
    probes: Iterable[Probe],
    run: Run,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    batch: Any = None,
    data: Iterable[Any] | None = None,
    training_data: Iterable[Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
    steps: Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
    recompute: bool = False,
    advance: Advance | None = None,
) -> dict[str, xr.Dataset]:
    """Measure a run with several probes, as `measure` does with each, to the same bits.

    Every checkpoint is read once for all probes of moments and those that fold over checkpoints
    (`Convergence`, `PathAndProgress`); no more weights are held than these compare at a time:
    current, previous, initial and final ones. Trajectory probes follow, each by itself.

    A probe that fails does not hinder the others: their results are kept in the run before its
    error is raised.

    Args:
        probes: What to measure.
        run: The run.
        model: As for `measure`, for every probe, as is all that follows.
        task: What a batch means.
        batch: The fixed batch; by default the one stored with the run.
        data: Batches to test on.
        training_data: Batches of the training examples.
        factory: Builds the model anew.
        steps: Checkpoints to use; all by default.
        layers: Patterns of the layers to measure; all by default.
        recompute: Measure again also what is there.
        advance: Called with (checkpoints done, checkpoints in all); by default a progress bar,
            where there is a terminal or a notebook.

    Returns:
        The dataset of every probe by its key.

    Raises:
        LayerscopeError: As for `measure`. Where several probes failed for several reasons it names
            each probe with its reason.
        DivergedError: Weights are not finite, and nothing else is wrong.
    """
    given = Given(model, task, batch, data, training_data, factory)
    call = Call(run, given, chosen_steps(run, steps), layers)
    wanted = {probe.key: probe for probe in probes}
    found: dict[str, xr.Dataset] = {}
    errors: dict[str, Exception] = {}
    plans: dict[str, Shared | Alone] = {}
    for key, probe in wanted.items():
        with noting(errors, key):
            same = call.identity(probe)
            kept = None if recompute else read_kept(run, same)
            if kept is None:
                plans[key] = call.plan(probe, same)
            else:
                found[key] = kept
    shared = [plan for plan in plans.values() if isinstance(plan, Shared)]
    label = f"measuring {next(iter(wanted)) if len(wanted) == 1 else f'{len(wanted)} probes'}"
    with reporting(label, advance) as advance:
        call.observe([plan.watch for plan in shared], errors, advance)
    for plan in sorted(plans.values(), key=lambda plan: isinstance(plan, Alone)):
        if (key := plan.key) not in errors:
            with noting(errors, key, plan.given):
                dataset = plan.result(run, call.steps)
                plan.identity.mark(dataset)
                run.replace_results(plan.identity.key, dataset)
                found[key] = dataset
    if errors:
        raise together(errors)
    return {key: found[key] for key in wanted}


def stored(
    probe: Probe,
    run: Run,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    batch: Any = None,
    data: Iterable[Any] | None = None,
    training_data: Iterable[Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
    steps: Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
) -> xr.Dataset:
    """Read back what `measure` has kept; nothing is computed.

    Model, task and data are compared with those of the measurement where they are given. The
    fixed batch is by default the one stored with the run.

    Args:
        probe: What was measured.
        run: The run.
        model: The module that it was measured with.
        task: What a batch means.
        batch: The fixed batch.
        data: Batches to test on.
        training_data: Batches of the training examples.
        factory: Builds the model; compared where the model is given.
        steps: The checkpoints used; all by default.
        layers: Patterns of the layers measured; all by default.

    Returns:
        The dataset that `measure` returned.

    Raises:
        LayerscopeError: It was not measured, or with other checkpoints, layers, data, ...; or the
            file is damaged.
    """
    given = Given(model, task, batch, data, training_data, factory)
    wanted = Call(run, given, chosen_steps(run, steps), layers).identity(probe)
    if wanted.key not in run.result_keys:
        raise LayerscopeError(
            f"{run.path} was not measured with {probe.key}.",
            f"Measure it first: measure({type(probe).__name__}(...), run).",
        )
    dataset = run.results(wanted.key)
    if differences := wanted.differences(dataset):
        raise LayerscopeError(
            f"{run.path} was measured with {probe.key}, but not with the same "
            f"{', '.join(differences)}.",
            f"Measure it again: measure({type(probe).__name__}(...), run).",
        )
    return dataset
