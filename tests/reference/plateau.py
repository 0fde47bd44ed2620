"""The slow, obvious twin of training until plateaus: a plain loop with torch's own scheduler."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from layerscope.data.loader import Batches
from layerscope.training.loop import evaluate
from layerscope.training.problem import problem


def scheduler(optimizer, factor, how):
    """Without its bound on how little a rate may still fall, 1e-8."""
    return ReduceLROnPlateau(
        optimizer, factor=factor, patience=how.patience, threshold=how.threshold, eps=0
    )


def epochs(losses, how):
    """The epochs at whose end a rate falls, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    falling, found = scheduler(optimizer, 0.5, how), []
    for epoch, loss in enumerate(losses, 1):
        before = optimizer.param_groups[0]["lr"]
        falling.step(loss)
        if optimizer.param_groups[0]["lr"] < before:
            found.append(epoch)
    return found


def trained(config):
    """The weights after the last step, by name, and the rate of every step."""
    made = problem(config)
    optimizer = torch.optim.SGD(
        made.model.parameters(),
        config.optimizer.learning_rate,
        config.optimizer.momentum,
        fused=True,
    )
    falling = scheduler(optimizer, config.decay, config.plateau)
    batches = Batches(made.dataset.train, config.batch_size, config.seed)
    rates = []
    for step in range(config.epochs * batches.steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        batch = batches.batch(step)
        optimizer.zero_grad()
        made.task.loss(made.task.forward(made.model, batch), batch).backward()
        optimizer.step()
        if (step + 1) % batches.steps_per_epoch == 0:
            falling.step(evaluate(made.model, made.task, made.dataset.test)["test_loss"])
    return made.model.state_dict(), rates
