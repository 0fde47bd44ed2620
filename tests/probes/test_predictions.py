from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from tests.cases import CASES, CLASSIFY, CNN
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.task import Task
from layerscope.probes import Predictions, measure
from layerscope.probes.predictions import predicted_classes

DATA = [CNN.batch(1), CNN.batch(2)]


def test_predictions_are_those_of_plain_calls(run):
    found = measure(Predictions(), run, model=CNN.model(8), task=CNN.task, data=DATA)
    assert found["predicted"].dims == ("step", "example")
    labels = torch.cat([batch[1] for batch in DATA]).tolist()
    assert found["label"].values.tolist() == labels
    before = None
    for step in run.steps:
        twin = run.load(CNN.model(), step).eval()
        with torch.no_grad():
            expected = torch.cat([twin(batch[0]).argmax(1) for batch in DATA]).tolist()
        here = found.sel(step=step)
        assert here["predicted"].values.tolist() == expected
        bits = mutual_info_score(labels, expected) / np.log(2)
        assert float(here["information"]) == pytest.approx(bits, abs=1e-12)
        if before is not None:
            share = np.mean([a != b for a, b in zip(before, expected, strict=True)])
            assert float(here["changed"]) == pytest.approx(share)
        before = expected
    assert np.isnan(found["changed"][0])
    assert [figure.key for figure in Predictions().figures(found)] == [
        "predictions-information",
        "predictions-changed",
    ]


def test_the_last_checkpoint_alone_has_no_figures(run):
    probe = Predictions(checkpoints="last")
    found = measure(probe, run, model=CNN.model(8), task=CNN.task, data=DATA)
    assert found.sizes["step"] == 1
    assert probe.figures(found) == []


def test_labels_that_do_not_count_are_left_out():
    model, (inputs, labels) = CNN.model(), CNN.batch(1)
    masked = labels.clone()
    masked[:3] = -100
    predicted, right = predicted_classes(model, {}, [(inputs, masked)], CLASSIFY)
    whole, _ = predicted_classes(model, {}, [(inputs, labels)], CLASSIFY)
    assert right.tolist() == labels[3:].tolist()
    assert torch.equal(predicted, whole[3:])


def test_what_is_no_classifier_is_refused():
    case = next(case for case in CASES if case.task.name == "language model")
    with pytest.raises(LayerscopeError, match="no class for every example"):
        predicted_classes(case.model(), {}, [case.batch(0)], case.task)
    batch = (CNN.batch(1)[0], torch.rand(8, 3))
    with pytest.raises(LayerscopeError, match="no class for every example"):
        predicted_classes(CNN.model(), {}, [batch], Task.regression())
    inputs, labels = CNN.batch(1)
    with pytest.raises(LayerscopeError, match="outputs are no logits"):
        predicted_classes(nn.Unflatten(1, (1, 1)), {}, [(inputs, labels)], CLASSIFY)
    with pytest.raises(LayerscopeError, match="Did you mean 'last'"):
        Predictions(checkpoints="lats")
    with pytest.raises(LayerscopeError, match="no data to predict"):
        predicted_classes(CNN.model(), {}, [], CLASSIFY)
