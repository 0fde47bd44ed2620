import copy
import itertools
from collections import Counter, OrderedDict

import pytest
import torch
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.stochastic import StochasticClassifier, block_stages, stochastic


class Block(nn.Module):
    """A residual block with a normalisation, hence with buffers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear1, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)
        self.linear2 = nn.Linear(outputs, outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Linear(inputs, outputs, bias=False)

    def forward(self, x):
        return self.shortcut(x) + self.linear2(torch.tanh(self.norm(self.linear1(x))))


def stage(*widths):
    blocks = enumerate(itertools.starmap(Block, itertools.pairwise(widths)), 1)
    return nn.Sequential(OrderedDict((f"block{i}", block) for i, block in blocks))


def build():
    return nn.Sequential(
        OrderedDict(stage1=stage(5, 5, 5), stage2=stage(5, 6, 6), output=nn.Linear(6, 3))
    )


BLOCKS = {"stage1": ["stage1.block1", "stage1.block2"], "stage2": ["stage2.block2"]}
X = torch.randn(7, 5, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture
def layers(model):
    return LayerMap.from_model(model, X, unit="block")


def draws_of(model, n=2):
    torch.manual_seed(1)
    fresh = [build().state_dict() for _ in range(n)]
    names = [block for blocks in BLOCKS.values() for block in blocks]
    return {
        block: [{k: v for k, v in one.items() if k.startswith(f"{block}.")} for one in fresh]
        for block in names
    }


def loaded(model, *replacements):
    """The slow way: a copy of the model that holds the drawn weights."""
    changed = copy.deepcopy(model)
    for weights in replacements:
        changed.load_state_dict({**changed.state_dict(), **weights})
    return changed


def which(output, candidates):
    (found,) = [key for key, expected in candidates.items() if torch.equal(output, expected)]
    return found


def test_no_active_stage_is_the_model(model):
    classifier = StochasticClassifier(model, BLOCKS, draws_of(model), active=0)
    assert torch.equal(classifier(X), model(X))


def test_one_stage_gives_every_block_and_draw_its_chance(model):
    draws = draws_of(model)
    classifier = StochasticClassifier(model, BLOCKS, draws, active=1)
    candidates = {
        (block, i): loaded(model, weights)(X)
        for block, options in draws.items()
        for i, weights in enumerate(options)
    }
    counts = Counter(which(classifier(X), candidates) for _ in range(800))
    # Each stage half of the calls, in it each block, then each draw alike; 4 standard deviations.
    for (block, _), n in counts.items():
        share = 1 / 8 if block.startswith("stage1") else 1 / 4
        assert n == pytest.approx(800 * share, abs=4 * (800 * share * (1 - share)) ** 0.5)
    assert set(counts) == set(candidates)


def test_all_stages_change_one_block_each(model):
    draws = draws_of(model)
    classifier = StochasticClassifier(model, BLOCKS, draws, active=2)
    candidates = {
        (a, i, j): loaded(model, draws[a][i], draws["stage2.block2"][j])(X)
        for a in BLOCKS["stage1"]
        for i in range(2)
        for j in range(2)
    }
    assert {which(classifier(X), candidates) for _ in range(100)} == set(candidates)


def test_gradients_reach_the_input_and_nothing_is_touched(model):
    before = copy.deepcopy(model.state_dict())
    draws = {"stage1.block1": draws_of(model)["stage1.block1"][:1]}
    state = torch.get_rng_state()
    classifier = StochasticClassifier(model, {"stage1": list(draws)}, draws, active=1)
    changed = loaded(model, draws["stage1.block1"][0])
    gradients = []
    for module in (classifier, changed):
        x = X.clone().requires_grad_()
        gradients += torch.autograd.grad(module(x).square().sum(), x)
    assert torch.equal(*gradients)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_choices_repeat_by_seed(model):
    draws = draws_of(model, 4)
    first, again, other = (
        torch.stack([c(X) for _ in range(20)])
        for c in (StochasticClassifier(model, BLOCKS, draws, 1, seed) for seed in (3, 3, 4))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_blocks_that_keep_the_shape_take_part(model, layers):
    found = block_stages(model, layers)
    assert {stage: [b.name for b in blocks] for stage, blocks in found.items()} == BLOCKS
    everything = block_stages(model, layers, eligible=lambda block: isinstance(block, Block))
    assert [len(blocks) for blocks in everything.values()] == [2, 2]


@pytest.mark.parametrize("factory", [None, build])
def test_draws_are_fresh_and_repeat(model, layers, factory):
    classifier, again = (
        stochastic(model, layers, active=1, draws=3, seed=5, factory=factory) for _ in range(2)
    )
    outputs = [torch.stack([c(X) for _ in range(150)]) for c in (classifier, again)]
    assert torch.equal(*outputs)
    # 3 blocks with 3 draws each, no two of them alike, none of them the trained one
    assert len({tuple(o.flatten().tolist()) for o in outputs[0]}) == 9
    assert not any(torch.equal(o, model(X)) for o in outputs[0])


def test_two_blocks_of_one_draw_differ(model, layers):
    classifier = stochastic(model, layers, active=1, draws=1)
    (one, two), _ = classifier._choices
    (a,), (b,) = one, two
    names = zip(sorted(a), sorted(b), strict=True)
    assert any(not torch.equal(a[m], b[n]) for m, n in names if m.endswith("weight"))


BAD = {
    "too many": (lambda m, ls: stochastic(m, ls, 3), r"3 of 2 stages \(stage1, stage2\)"),
    "negative": (lambda m, ls: stochastic(m, ls, -1), "between 0 and 2"),
    "no block": (
        lambda m, _: stochastic(m, LayerMap.from_model(m, X), 1),
        'no eligible residual block.*\n.*unit="block"',
    ),
    "no draws": (lambda m, ls: stochastic(m, ls, 1, draws=0), "'stage1.block1' has no draws"),
    "a stranger": (
        lambda m, _: StochasticClassifier(m, {"s": ["b"]}, {"b": [{"b.weight": X}]}, 1),
        "does not fit the model: 'b.weight'",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_reset_is_said(model, layers, call, message):
    with pytest.raises(LayerscopeError, match=message):
        call(model, layers)
