from __future__ import annotations

import pytest
import torch
from tests.cases import FCN

from layerscope.errors import LayerscopeError
from layerscope.probes import GradientMagnitude, measure
from layerscope.probes.given import Given, blamed, check_needs
from layerscope.runs.store import Run

EVERYTHING = Given(FCN.model(), FCN.task, FCN.batch(0), [FCN.batch(1)], [FCN.batch(2)], FCN.build)


def names(given):
    return [name for name, value in vars(given).items() if value is not None]


def test_a_probe_is_given_what_it_declares_and_the_factory_with_the_model():
    assert names(EVERYTHING.only(frozenset())) == []
    assert names(EVERYTHING.only(frozenset({"model", "data"}))) == ["model", "data", "factory"]
    every = frozenset({"model", "task", "batch", "data", "training_data"})
    assert EVERYTHING.only(every) == EVERYTHING


def test_what_is_lacking_is_named_in_order():
    needs = frozenset({"model", "batch", "previous", "task"})
    check_needs("Probe", needs, EVERYTHING)
    with pytest.raises(
        LayerscopeError, match=r"Probe needs batch and model\.\n  Pass batch=..., m"
    ):
        check_needs("Probe", needs, Given(task=FCN.task))


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "a", FCN.map(FCN.model()))
    yield run
    run.finish("complete")


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(8, 5), torch.zeros(8).long()),
        (torch.ones(8, 4), torch.zeros(7).long()),
        (torch.ones(8, 4), torch.zeros(8)),
        (torch.ones(8, 4),),
        {"x": torch.ones(8, 4)},
    ],
    ids=["inputs", "labels", "type", "no labels", "names"],
)
def test_a_batch_that_does_not_fit_the_model_is_named(run, batch):
    run.write_checkpoint(0, FCN.model().state_dict())
    run.store_batch(batch)
    named = r"Sequential does not run on the batch|labels|the batch is a"
    with pytest.raises(LayerscopeError, match=named) as said:
        measure(GradientMagnitude(), run, model=FCN.model(), task=FCN.task)
    if "does not run" in said.value.message:  # else the task says what is wrong with it
        assert "batch.safetensors" in said.value.remedy


def test_what_fails_for_another_reason_is_left_alone():
    error = ZeroDivisionError()
    fits = Given(FCN.model(), FCN.task, FCN.batch(0))
    for given in (fits, Given(batch=FCN.batch(0))):
        assert blamed(error, given) is error
    unfit = Given(FCN.model(), FCN.task, (torch.ones(8, 5), torch.zeros(8).long()))
    said = LayerscopeError("known.")
    assert blamed(said, unfit) is said
    assert blamed(error, unfit).__cause__ is error
