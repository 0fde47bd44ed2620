"""Optimisers and learning rates: torch's own are the reference."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from tests.training.test_loop import assert_equal_runs
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, MultiStepLR
from torch.optim.lr_scheduler import SequentialLR as Sequence

from layerscope.config import FCN, SGD, Adagrad, Adam, AdamW, RMSprop, RunConfig
from layerscope.config.rates import check_schedule, learning_rate
from layerscope.errors import LayerscopeError
from layerscope.runs.store import Run
from layerscope.training.loop import train
from layerscope.training.optimisers import make_optimizer

SMALL = RunConfig(model=FCN(depth=1, width=8), epochs=2, batch_size=500, probe_batch=32)
OPTIMISERS = {
    SGD(0.1, 0.9, True, 1e-3): (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    ),
    Adam(0.02, 0.8, 0.99, 1e-3): (
        torch.optim.Adam,
        {"lr": 0.02, "betas": (0.8, 0.99), "weight_decay": 1e-3},
    ),
    AdamW(0.02, 0.8, 0.99, 0.1): (
        torch.optim.AdamW,
        {"lr": 0.02, "betas": (0.8, 0.99), "weight_decay": 0.1},
    ),
    Adagrad(0.03, 1e-3): (torch.optim.Adagrad, {"lr": 0.03, "weight_decay": 1e-3}),
    RMSprop(0.02, 0.9, 0.5, 1e-3): (
        torch.optim.RMSprop,
        {"lr": 0.02, "alpha": 0.9, "momentum": 0.5, "weight_decay": 1e-3},
    ),
}
KINDS = pytest.mark.parametrize("config", OPTIMISERS, ids=lambda config: type(config).__name__)


@KINDS
def test_an_optimiser_steps_like_torch_s_plain_loop(config):
    torch.manual_seed(0)
    models = [nn.Linear(20, 10), nn.Linear(20, 10)]
    models[1].load_state_dict(models[0].state_dict())
    kind, settings = OPTIMISERS[config]
    mine = make_optimizer(config, models[0])
    plain = kind(models[1].parameters(), foreach=False, **settings)
    for _ in range(50):
        for pair in zip(models[0].parameters(), models[1].parameters(), strict=True):
            pair[0].grad = torch.randn_like(pair[0])
            pair[1].grad = pair[0].grad.clone()
        mine.step()
        plain.step()
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@KINDS
def test_an_interrupted_run_resumes_to_the_same_weights(config, tmp_path):
    config = dataclasses.replace(SMALL, optimizer=config, schedule="cosine", warmup=2, epochs=3)
    expected = train(config, tmp_path / "whole", accelerator="cpu")

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", accelerator="cpu", advance=stop, resume_seconds=-1.0)
    assert Run.open(tmp_path / "cut").status == "interrupted"
    assert_equal_runs(train(config, tmp_path / "cut", accelerator="cpu"), expected)


# Learning rates

PER_EPOCH, EPOCHS = 7, 6
STEPS = PER_EPOCH * EPOCHS


def scheduled(make):
    """The rates of a torch scheduler over the whole run."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates(**settings):
    config = RunConfig(optimizer=SGD(0.3), epochs=EPOCHS, **settings)
    check_schedule(config, PER_EPOCH)
    return [learning_rate(config, step, PER_EPOCH) for step in range(STEPS)]


def linear(optimizer, warmup):
    return LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)


@pytest.mark.parametrize("warmup", [2, 5, 20])
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_cosine_after_warm_up_is_torch_s(warmup):
    expected = scheduled(
        lambda o: Sequence(o, [linear(o, warmup), CosineAnnealingLR(o, STEPS - warmup)], [warmup])
    )
    found = rates(schedule="cosine", warmup=warmup)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(0.3 / warmup)
    assert found[warmup - 1] == found[warmup] == 0.3


def test_cosine_without_warm_up_is_torch_s_and_stays_after_the_end():
    expected = scheduled(lambda o: CosineAnnealingLR(o, STEPS))
    assert rates(schedule="cosine") == pytest.approx(expected, rel=1e-9)
    assert rates(schedule="cosine", warmup=1) != rates(schedule="cosine")
    config = RunConfig(optimizer=SGD(0.3), epochs=EPOCHS, schedule="cosine")
    last = learning_rate(config, STEPS - 1, PER_EPOCH)
    assert learning_rate(config, STEPS, PER_EPOCH) == last > 0


@pytest.mark.parametrize("warmup", [2, 10])  # the longer one passes a milestone
def test_milestones_and_warm_up_are_torch_s(warmup):
    steps = [PER_EPOCH, 4 * PER_EPOCH]
    expected = scheduled(
        lambda o: ChainedScheduler([linear(o, warmup), MultiStepLR(o, steps, 0.2)], o)
    )
    found = rates(milestones=(1, 4), decay=0.2, warmup=warmup)
    assert found == pytest.approx(expected, rel=1e-9)


def test_milestones_alone_are_torch_s_and_what_they_always_were():
    expected = scheduled(lambda o: MultiStepLR(o, [2 * PER_EPOCH, 4 * PER_EPOCH], 0.2))
    found = rates(milestones=(2, 4), decay=0.2)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found == [
        0.3 * 0.2 ** ((s // PER_EPOCH >= 2) + (s // PER_EPOCH >= 4)) for s in range(STEPS)
    ]
    assert rates() == [0.3] * STEPS


def test_a_run_may_be_all_warm_up():
    found = rates(schedule="cosine", warmup=STEPS)
    assert found == [0.3 * (step + 1) / STEPS for step in range(STEPS)]


def test_training_takes_the_rate_of_every_step(tmp_path):
    """Of plain descent, the first step is as long as its rate."""
    plain = dataclasses.replace(SMALL, epochs=1, checkpoints="every(1)")
    changes = {"plain": {}, "warm": {"warmup": 3}, "cosine": {"schedule": "cosine"}}
    moved = {}
    for name, settings in changes.items():
        config = dataclasses.replace(plain, **settings)
        run = train(config, tmp_path / name, accelerator="cpu")
        weights = [run.checkpoint(step)["output.weight"] for step in range(4)]
        moved[name] = [(b - a).norm() for a, b in pairwise(weights)]
    assert float(moved["warm"][0] / moved["plain"][0]) == pytest.approx(1 / 3, rel=1e-4)
    assert float(moved["cosine"][0] / moved["plain"][0]) == pytest.approx(1, rel=1e-4)
    halfway = 0.5 * (1 + math.cos(math.pi / 3))  # the second of three steps
    assert float(moved["cosine"][1] / moved["plain"][1]) == pytest.approx(halfway, rel=1e-4)


BAD = {
    "long": ({"warmup": 7}, "warmup is 7 steps, and the run has 6"),
    "negative": ({"warmup": -1}, "warmup is -1 steps"),
    "milestones": (
        {"schedule": "cosine", "milestones": (1,)},
        "which the cosine schedule does not follow",
    ),
    "unknown": ({"schedule": "cosin"}, "Did you mean 'cosine'"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_settings_that_contradict_each_other_are_refused(settings, message, tmp_path):
    with pytest.raises(LayerscopeError, match=message):
        train(dataclasses.replace(SMALL, **settings), tmp_path / "run", accelerator="cpu")
    assert not (tmp_path / "run").exists()
