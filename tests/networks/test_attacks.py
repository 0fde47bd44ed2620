import math

import pytest
import torch
from tests.cases import CNN, TIED
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.attacks import FGSM, PGD, UNBOUNDED, Pixels, correct_under_attack, pieces
from layerscope.networks.task import Task
from reference import attacks as reference

TASK = Task.classification()
PIXELS = Pixels(torch.tensor([0.4]), torch.tensor([0.2]))


def images(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, 1, 8, 8, generator=generator),
        torch.randint(3, (n,), generator=generator),
    )


@pytest.fixture
def model():
    return CNN.model().double().eval()


def single_losses(model, labels, pixels=PIXELS):
    """The loss of each example as a function of its pixels alone."""
    return [
        lambda x, y=y: nn.functional.cross_entropy(model(pixels.normalised(x[None])), y[None])
        for y in labels
    ]


def batch_losses(model, labels, pixels=PIXELS):
    return lambda x: TASK.losses(model(pixels.normalised(x)), (x, labels))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), UNBOUNDED])
def test_attacks_are_those_of_the_plain_loop(model, bounds):
    x, labels = images()
    x = x.double()
    losses, single = batch_losses(model, labels), single_losses(model, labels)
    found = FGSM(0.1).perturb(losses, x, bounds)
    torch.testing.assert_close(found, reference.fgsm(single, x, 0.1, bounds), rtol=0, atol=1e-15)
    found = PGD(0.1, 7, 0.03, random_start=False).perturb(losses, x, bounds)
    expected = reference.pgd(single, x, 0.1, 7, 0.03, bounds)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not x.requires_grad
    assert not FGSM(0.1).perturb(losses, x.requires_grad_(), bounds).requires_grad


def test_small_gradients_count(model):
    x, labels = images()
    found = FGSM(0.1).perturb(lambda x: 1e-9 * batch_losses(model, labels)(x), x.double(), (0, 1))
    assert torch.equal(found, FGSM(0.1).perturb(batch_losses(model, labels), x.double(), (0, 1)))


@pytest.mark.parametrize("attack", [FGSM(0.1), PGD(0.1, 5), PGD(0.1, 0)])
def test_pixels_stay_within_the_ball_and_the_bounds(model, attack):
    x, labels = images()
    found = attack.perturb(batch_losses(model, labels), x.double(), (0.0, 1.0))
    assert (found - x).abs().max() <= 0.1 + 1e-12
    assert found.min() >= 0
    assert found.max() <= 1


# Two classes, margin w.x + b of the right one over the other: the worst x within epsilon costs
# epsilon * |w|_1, and sign steps find it.
ATTACKS = {
    "fgsm": lambda e: FGSM(e),
    "pgd": lambda e: PGD(e, 10, e / 5, random_start=False),
    "random start": lambda e: PGD(e, 20, e / 5),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("scaled", [True, False])
def test_accuracy_of_a_linear_model_is_known(attack, scaled):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    pixels = Pixels(mean, std, UNBOUNDED) if scaled else Pixels(bounds=UNBOUNDED)
    x, labels = torch.randn(400, 3, 2, 2).double(), torch.randint(2, (400,))
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    difference, offset = weight[1] - weight[0], bias[1] - bias[0]
    margin = (2 * labels - 1) * (x.flatten(1) @ difference + offset)
    per_pixel = difference.reshape(3, 4) / (std.double()[:, None] if scaled else 1)
    before = 1.0
    for epsilon in (0.0, 0.05, 0.1, 0.3):
        right = correct_under_attack(model, [(x, labels)], TASK, attack(epsilon), pixels)
        assert torch.equal(right, margin > epsilon * per_pixel.abs().sum())
        assert right.double().mean() <= before
        before = right.double().mean()
    clean = correct_under_attack(model, [(x, labels)], TASK)
    assert torch.equal(clean, margin > 0)


def test_everything_is_left_as_found():
    model = CNN.model()  # in training mode, with statistics
    inputs, labels = images()
    TASK.loss(model(inputs), (inputs, labels)).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    kept, random = inputs.clone(), torch.get_rng_state()
    inputs.requires_grad_()
    for attack in (None, FGSM(), PGD(steps=2)):
        correct_under_attack(model, [(inputs, labels)], TASK, attack)
    assert inputs.grad is None
    assert inputs.requires_grad
    assert torch.equal(inputs, kept)
    assert all(map(torch.equal, gradients, (p.grad for p in model.parameters())))
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_random_start_repeats_by_seed():
    model, seen = CNN.model(), []

    class Watched(PGD):
        def perturb(self, *arguments):
            seen.append(super().perturb(*arguments))
            return seen[-1]

    for seed in (1, 1, 2):
        correct_under_attack(model, [images()], TASK, Watched(steps=1), seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_pieces_keep_the_order():
    data = [images(5, 0), images(4, 1)]
    whole = torch.cat([x for x, _ in data])
    sizes = {(2, 7): [2, 2, 1, 2], (10, 5): [5], (3, 100): [3, 2, 3, 1]}
    for (size, most), expected in sizes.items():
        found = list(pieces(data, size, most))
        assert [len(x) for x, _ in found] == expected
        assert torch.equal(torch.cat([x for x, _ in found]), whole[:most])


BAD = {
    "no data": (lambda: correct_under_attack(CNN.model(), [], TASK), "no data"),
    "tokens": (lambda: correct_under_attack(TIED.model(), [TIED.batch(0)], TIED.task), "floating"),
    "regression": (lambda: correct_under_attack(CNN.model(), [], Task.regression()), "are right"),
    "epsilon": (lambda: FGSM(-0.1), "epsilon is -0.1"),
    "step": (lambda: PGD(step_size=math.nan), "step_size is nan"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_attacked_is_said(call, message):
    with pytest.raises(LayerscopeError, match=message):
        call()
