"""Runs of layers that grow at every step."""

from __future__ import annotations

import torch
from tests.cases import FCN

from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.recording.recorder import Recorder


def record(path, steps=6, model=None, fails=None, **options):
    """Record layers that grow by a tenth at every step, but those that are frozen."""
    model = FCN.model() if model is None else model
    settings = {"probes": [DistanceFromInitialisation(), WeightChange()]} | options
    with Recorder(model, path, **settings) as recorder:
        for step in range(steps):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1.1).add_(0.01)
            recorder.step()
            if step == fails:
                raise KeyboardInterrupt
    return recorder.run
