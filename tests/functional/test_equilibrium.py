"""The formula against a made scale-invariant problem, trained by torch's own SGD."""

import math

import pytest
import torch

from layerscope.functional.change import angles
from layerscope.functional.equilibrium import (
    diffusive_directness,
    equilibrium_angle,
    equilibrium_time,
)
from layerscope.functional.norms import owners


def turned(learning_rate, weight_decay, momentum, steps, size=300, gradient=1.0, length=1.0):
    """Angle of every step of weights whose loss depends on their direction alone.

    The loss is ``g @ (w / |w|)`` with a random ``g`` at every step; its gradient is the part of
    ``g`` across the weights, over their length.
    """
    generator = torch.Generator().manual_seed(0)
    slopes = gradient * torch.randn(steps, size, generator=generator, dtype=torch.float64)
    weights = torch.nn.Parameter(length * slopes[0] / slopes[0].norm())
    optimizer = torch.optim.SGD([weights], learning_rate, momentum, weight_decay=weight_decay)
    path = [weights.detach().clone()]
    for slope in slopes:
        now = path[-1]
        weights.grad = (slope - (slope @ now) / (now @ now) * now) / now.norm()
        optimizer.step()
        path.append(weights.detach().clone())
    return angles(path[:-1], path[1:], owners([1] * steps), steps)


def test_the_gradient_is_that_of_the_loss():
    weights = torch.randn(7, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(7, dtype=torch.float64)
    (slope @ (weights / weights.norm())).backward()
    now = weights.detach()
    expected = (slope - (slope @ now) / (now @ now) * now) / now.norm()
    torch.testing.assert_close(weights.grad, expected)


SETTINGS = [(0.1, 0.005, 0.9), (0.1, 0.02, 0.0), (0.05, 0.02, 0.5)]


@pytest.mark.parametrize(("learning_rate", "weight_decay", "momentum"), SETTINGS)
def test_the_angle_of_a_step_in_equilibrium(learning_rate, weight_decay, momentum):
    time = equilibrium_time(learning_rate, weight_decay, momentum)
    steps = int(6 * time) + 500
    found = turned(learning_rate, weight_decay, momentum, steps)[-500:].mean()
    expected = equilibrium_angle(learning_rate, weight_decay, momentum)
    assert float(found) == pytest.approx(expected, rel=0.03)


def test_size_and_gradient_do_not_matter_in_the_end_but_before():
    settings = (0.1, 0.005, 0.9)
    expected = equilibrium_angle(*settings)
    assert expected == pytest.approx(0.02294, abs=1e-5)
    kinds = [{"size": 100}, {"size": 1000}, {"gradient": 0.1}, {"gradient": 10.0}, {"length": 5.0}]
    found = [turned(*settings, 1000, **kind) for kind in kinds]
    for values in found:
        assert float(values[-500:].mean()) == pytest.approx(expected, rel=0.04)
    early = [float(values[5:15].mean()) for values in found]
    assert max(early) > 3 * min(early)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_squared_length_comes_to_rest_in_the_time_stated(momentum):
    """Without gradients the squared length falls by a factor of e."""
    rate, decay = 0.1, 0.005
    weights = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weights], rate, momentum=momentum, weight_decay=decay)
    for _ in range(round(equilibrium_time(rate, decay, momentum))):
        optimizer.zero_grad()
        (0 * weights.sum()).backward()
        optimizer.step()
    assert float(weights.detach() ** 2) == pytest.approx(math.exp(-1), rel=0.15)


def test_without_decay_there_is_no_equilibrium():
    assert equilibrium_angle(0.1, 0.0, 0.9) == 0
    assert equilibrium_time(0.1, 0.0, 0.9) == math.inf


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 5, 79])
def test_directness_of_steps_with_independent_gradients(steps, momentum):
    generator = torch.Generator().manual_seed(0)
    velocity, path = torch.zeros(20_000), []
    for _ in range(200 + steps):  # from where the velocity has its usual size
        velocity = momentum * velocity + torch.randn(20_000, generator=generator)
        path.append(velocity)
    taken = torch.stack(path[-steps:])
    found = taken.sum(0).norm() / taken.norm(dim=1).sum()
    assert float(found) == pytest.approx(diffusive_directness(steps, momentum), rel=0.02)
    if momentum == 0:
        assert diffusive_directness(steps) == pytest.approx(steps**-0.5)
