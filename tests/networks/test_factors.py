"""Second moments at matrices: against hooks and loops, and against exact Fisher matrices."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.cases import CLASSIFY, Tied, classes, tokens
from tests.reference.factors import mean_outer, patches, places, seen
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from layerscope.errors import LayerscopeError
from layerscope.networks.factors import Factors, collect, find_uses, row_names
from layerscope.networks.fisher import fisher_exact
from layerscope.networks.task import Task


def factors(
    model: nn.Module, batch: Any, task: Task = CLASSIFY, **options: Any
) -> dict[str, Factors]:
    found = collect(model, [batch], task, **options)
    names = row_names({use: one.name for use, one in found.items()})
    return {names[use]: one for use, one in found.items()}


def same(moment: Any, expected: list[Tensor]) -> None:
    values = torch.stack([torch.linalg.eigvalsh(matrix).flip(0) for matrix in expected])
    found = moment.eigenvalues()
    scale = float(values.max())
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6 * scale)


def linear(width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 3),
    )


@pytest.mark.parametrize("training", [False, True])
def test_linear_layers(training: bool) -> None:
    model, batch = linear(), classes(4, n=20)(0)
    found = factors(model, batch, training=training)
    reference = seen(model, batch, CLASSIFY, ["0", "2", "4"], training)
    assert list(found) == ["0", "2", "4"]
    for name, ((x, g),) in reference.items():
        same(found[name].input, [mean_outer(x)])
        same(found[name].gradient, [mean_outer(g)])


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))).mean(1)


def test_every_position_is_an_example() -> None:
    torch.manual_seed(0)
    model, batch = Sequences(), (torch.randn(7, 5, 4), torch.randint(3, (7,)))
    found = factors(model, batch)
    for name, ((x, g),) in seen(model, batch, CLASSIFY, ["first", "last"]).items():
        same(found[name].input, [mean_outer(x.flatten(0, 1))])
        same(found[name].gradient, [mean_outer(g.flatten(0, 1))])


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(4, 8, (3, 2), padding=(2, 0), dilation=(2, 1), groups=4),
    nn.Conv2d(4, 6, 3, padding="same", padding_mode="zeros"),
    nn.Conv1d(4, 6, 3, stride=2, groups=2),
    nn.Conv1d(4, 4, 2, padding=2, dilation=3, groups=4),
    nn.Conv3d(4, 2, 2, padding=1),
    nn.Conv3d(4, 6, 2, stride=(2, 1, 2), dilation=(1, 2, 1), groups=2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolutions_by_place_and_by_patch(conv: Any) -> None:
    torch.manual_seed(0)
    conv = copy.deepcopy(conv)
    dims = len(conv.kernel_size)
    model = nn.Sequential(
        conv, nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.LazyLinear(3)
    )
    batch = (torch.randn(5, 4, *[6, 5, 4][:dims]), torch.randint(3, (5,)))
    model(batch[0])
    found = factors(model, batch)["0"]
    ((x, g),) = seen(model, batch, CLASSIFY, ["0"])["0"]
    size_in, size_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    groups = range(conv.groups)
    same(found.input, [mean_outer(places(x, k * size_in, size_in)) for k in groups])
    same(found.gradient, [mean_outer(places(g, k * size_out, size_out)) for k in groups])
    if isinstance(conv, nn.Conv2d) and conv.padding != "same":
        patched = factors(model, batch, places="patches")["0"]
        same(patched.input, [mean_outer(patches(x, conv, k)) for k in groups])


def test_patches_in_one_and_three_dimensions_have_the_output_of_the_convolution() -> None:
    """S_x of patches p and the filter w give E[(w p)^2], the mean square of the output."""
    for conv in (
        nn.Conv1d(4, 1, 3, 2, 1, 2),
        nn.Conv3d(2, 1, (3, 1, 2), 1, (1, 0, 1)),
        nn.Conv2d(2, 1, 3, padding="same", dilation=2),
    ):
        torch.manual_seed(0)
        x = torch.randn(3, conv.in_channels, *[6, 5, 7][: len(conv.kernel_size)])
        conv.bias.data.zero_()  # type: ignore[union-attr]
        model = nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(3))
        model(x)
        nn.init.constant_(conv.weight, 0.0)
        expected = []
        for k in range(conv.weight.numel()):
            conv.weight.data.zero_().view(-1)[k] = 1
            expected.append(float(conv(x).detach().square().mean()))
        found = factors(model, (x, torch.zeros(3).long()), places="patches")["0"].input
        assert found.trace == pytest.approx(sum(expected), rel=1e-5)


class Attention(nn.Module):
    """Self-attention of torch, or the same with one linear layer for queries, keys and values."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.attention = None if own else attention
        self.project, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.project.weight, self.project.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out.weight, self.out.bias = attention.out_proj.weight, attention.out_proj.bias
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            return self.last(self.attention(x, x, x)[0].mean(1))
        q, k, v = (
            part.reshape(*x.shape[:2], 2, 4).transpose(1, 2)
            for part in self.project(x).split(8, dim=-1)
        )
        mixed = torch.softmax(q @ k.mT / 2, -1) @ v
        return self.last(self.out(mixed.transpose(1, 2).reshape(x.shape)).mean(1))


def test_projections_inside_of_attention() -> None:
    inside, outside = Attention(False), Attention(True)
    outside.last.load_state_dict(inside.last.state_dict())
    batch = (torch.randn(6, 5, 8), torch.randint(3, (6,)))
    found = factors(inside, batch)
    assert list(found) == ["attention.in_proj_weight", "attention.out_proj", "last"]
    reference = seen(outside, batch, CLASSIFY, ["project", "out"])
    for name, module in (("attention.in_proj_weight", "project"), ("attention.out_proj", "out")):
        ((x, g),) = reference[module]
        same(found[name].input, [mean_outer(x.flatten(0, 1))])
        same(found[name].gradient, [mean_outer(g.flatten(0, 1))])


class Crossed(nn.Module):
    """Attention whose queries come from elsewhere: one parameter has two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = x.flip(1) ** 2
        return self.last(self.attention(x, memory, memory)[0].mean(1))


def test_parts_of_a_parameter_are_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 8)
    found = factors(Crossed(), (x, torch.randint(3, (6,))))
    parts = ["attention.in_proj_weight", "attention.in_proj_weight #2"]
    assert list(found) == [*parts, "attention.out_proj", "last"]
    for name, entering, leaving in zip(parts, (x, x.flip(1) ** 2), (8, 16), strict=True):
        same(found[name].input, [mean_outer(entering.flatten(0, 1))])
        assert found[name].gradient.eigenvalues().shape == (1, leaving)


def test_tied_weights_stand_for_embedding_and_for_matrix() -> None:
    torch.manual_seed(0)
    model, batch, task = Tied(), tokens(0), Task.language_model()
    found = factors(model, batch, task)
    assert list(found) == ["embedding", "hidden", "output"]
    ids = batch["input_ids"].flatten()
    frequencies = torch.bincount(ids, minlength=11).double().sort(descending=True).values / len(ids)
    torch.testing.assert_close(found["embedding"].input.eigenvalues()[0], frequencies)
    hidden = seen_in_language_model(model, batch, task)
    for name in ("embedding", "output"):
        x, g = hidden[name]
        same(found[name].gradient, [mean_outer(g.flatten(0, 1))])
        if name == "output":
            same(found[name].input, [mean_outer(x.flatten(0, 1))])


def seen_in_language_model(model: nn.Module, batch: Any, task: Task) -> dict[str, Any]:
    """Losses of this task are means over the tokens of an example; moments want their sum."""
    tokens = batch["input_ids"].shape[1] - 1
    calls = seen(model, batch, task, ["embedding", "output"])
    return {name: (x, tokens * g) for name, ((x, g),) in calls.items()}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.shared(torch.relu(self.shared(x)))))


def test_uses_of_a_shared_layer_add() -> None:
    torch.manual_seed(0)
    model, batch = Twice(), classes(4, n=9)(0)
    found = factors(model, batch)["shared"]
    calls = seen(model, batch, CLASSIFY, ["shared"])["shared"]
    assert found.uses == len(calls) == 2
    same(found.input, [mean_outer(torch.cat([x for x, _ in calls]))])
    same(found.gradient, [mean_outer(torch.cat([g for _, g in calls]))])


class Mirror(nn.Module):
    """Decodes with what it encoded with."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.code(torch.relu(F.linear(self.code(x), self.code.weight.t())))
            + x @ self.code.weight.mT
        )


def test_the_other_way_round_is_another_matrix() -> None:
    uses, _ = find_uses(Mirror(), classes(4)(0), CLASSIFY)
    assert [(use.weight, use.inputs) for use in uses] == [("code.weight", 1), ("code.weight", 0)]
    assert list(row_names(uses).values()) == ["code", "code #2"]


@pytest.mark.parametrize("fisher", ["empirical", "mc", "exact"])
@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 6, 6]),
        nn.InstanceNorm2d(4, affine=True),
    ],
    ids=str,
)
def test_scale_and_shift_of_a_normalisation_have_their_exact_matrix(norm: Any, fisher: Any) -> None:
    torch.manual_seed(0)
    norm = copy.deepcopy(norm)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
    )
    batch = classes(3, 8, 8, n=6)(0)
    found = factors(model, batch, fisher=fisher)["1"]
    exact = fisher_exact(model, batch, CLASSIFY, fisher, names=["1.weight", "1.bias"])
    assert found.gradient is None
    values = torch.linalg.eigvalsh(exact).flip(0)[None]
    torch.testing.assert_close(found.input.eigenvalues(), values, rtol=1e-4, atol=1e-6)


def test_a_layer_with_one_position_and_one_example_is_a_kronecker_product_exactly() -> None:
    """For one example the block is (g g^T) (x) (x x^T): the convention of scales is tested here."""
    model, batch = linear(), classes(4, n=1)(0)
    found = factors(model, batch)
    for name in ("0", "2", "4"):
        exact = fisher_exact(model, batch, CLASSIFY, "empirical", names=[f"{name}.weight"])
        top = found[name].input.eigenvalues()[0, 0] * found[name].gradient.eigenvalues()[0, 0]
        torch.testing.assert_close(torch.linalg.eigvalsh(exact)[-1], top, rtol=1e-5, atol=0)


def test_gradients_do_not_depend_on_how_many_examples_there_are() -> None:
    """Those of an example's own loss: a batch and the same twice have equal moments."""
    model, (x, y) = linear(), classes(4, n=8)(0)
    once, twice = factors(model, (x, y)), factors(model, (torch.cat([x, x]), torch.cat([y, y])))
    for name, one in once.items():
        torch.testing.assert_close(one.gradient.eigenvalues(), twice[name].gradient.eigenvalues())


@pytest.mark.parametrize("n", [1, 5])
def test_gradients_are_n_times_those_of_the_mean_loss(n: int) -> None:
    """So S_g has N squared times what hooks on a plain backward pass see."""
    model, batch = linear(), classes(4, n=n)(0)
    backward = Task(CLASSIFY.forward, CLASSIFY.loss, lambda *given: CLASSIFY.loss(*given)[None])
    found = factors(model, batch)
    for name, ((_, g),) in seen(model, batch, backward, ["0", "2", "4"]).items():
        same(found[name].gradient, [n**2 * mean_outer(g)])


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_regression_has_the_factors_of_a_mean_of_squares(outputs: int) -> None:
    """Loss |f - y|^2 / D: gradients 2 (f - y) / D, and a Fisher matrix of 2 / D, not 1."""
    torch.manual_seed(0)
    model, task = nn.Sequential(nn.Linear(3, outputs)), Task.regression()
    x, y = torch.randn(9, 3), torch.randn(9, outputs)
    residuals = (model(x) - y).detach()
    same(factors(model, (x, y), task)["0"].gradient, [mean_outer(2 / outputs * residuals)])
    exact = factors(model, (x, y), task, fisher="exact")["0"].gradient
    same(exact, [2 / outputs * torch.eye(outputs, dtype=torch.float64)])


def test_drawn_labels_converge_to_all_like_the_root_of_their_number() -> None:
    """The root mean square error of S_g over seeds: four times the draws halve it."""
    model, (x, y) = linear(), classes(4, n=5)(0)
    exact = {k: f.gradient.matrix()[0] for k, f in factors(model, (x, y), fisher="exact").items()}
    errors = []
    for draws in (20, 80, 320):
        many, squares = (x.repeat(draws, 1), y.repeat(draws)), []
        for seed in range(20):
            drawn = factors(model, many, fisher="mc", seed=seed)
            squares += [
                float((drawn[k].gradient.matrix()[0] - m).square().sum() / m.square().sum())
                for k, m in exact.items()
            ]
        errors.append((sum(squares) / len(squares)) ** 0.5)
    assert errors[-1] < 0.1
    for more, fewer in itertools.pairwise(errors):
        assert more / fewer == pytest.approx(2, rel=0.25)


class Added(nn.Module):
    """Adds to its input what it makes of it: in place, or to a copy."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 50), nn.Linear(50, 50), nn.Linear(50, 3)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = torch.tanh(self.inner(x))
        return self.last(x.add_(y) if self.in_place else x + y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_entered_may_change_in_place_afterwards(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, (x, y) = Added(True).to(dtype), classes(4, n=9)(0)
    copying = Added(False).to(dtype)
    copying.load_state_dict(model.state_dict())
    batch = (x.to(dtype), y)
    expected = factors(copying, batch)
    for name, one in factors(model, batch).items():
        torch.testing.assert_close(one.input.eigenvalues(), expected[name].input.eigenvalues())
        assert one.gradient is not None
        torch.testing.assert_close(
            one.gradient.eigenvalues(), expected[name].gradient.eigenvalues()
        )


def test_batches_add_up_to_the_whole() -> None:
    model, (x, y) = linear(12), classes(4, n=30)(0)
    whole = collect(model, [(x, y)], CLASSIFY)
    parts = collect(model, [(x[:7], y[:7]), (x[7:], y[7:])], CLASSIFY)
    for use, one in whole.items():
        for a, b in ((one.input, parts[use].input), (one.gradient, parts[use].gradient)):
            torch.testing.assert_close(a.eigenvalues(), b.eigenvalues(), rtol=1e-5, atol=1e-9)


def test_a_normalised_weight_belongs_to_the_layer_that_makes_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))
    batch = classes(4, n=9)(0)
    found = factors(model, batch)
    ((x, g),) = seen(model, batch, CLASSIFY, ["0"])["0"]
    assert list(found) == ["0", "2"]
    same(found["0"].input, [mean_outer(x)])
    same(found["0"].gradient, [mean_outer(g)])


class Written(nn.Module):
    """Products of every spelling, of one matrix each, and a normalisation that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.randn(4, 4)) for _ in range(4))
        self.experts = nn.Parameter(torch.randn(2, 4, 4))
        self.scale = nn.Parameter(torch.randn(4))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.a)
        x = torch.tanh(torch.addmm(x.mean(0), x, self.b))
        x = torch.tanh((self.c @ x.T).T)
        x = torch.tanh(torch.bmm(x.expand(2, *x.shape), self.experts).sum(0) + x @ self.experts[0])
        x = self.scale * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
        return self.last(torch.einsum("ni,oi->no", x, self.d))


def test_products_that_are_written_out() -> None:
    torch.manual_seed(0)
    model, batch = Written(), classes(4, n=9)(0)
    uses, elsewhere = find_uses(model, batch, CLASSIFY)
    assert list(row_names(uses).values()) == [
        "a",
        "b",
        "c",
        "experts",
        "experts #2",
        "scale",
        "last",
    ]
    assert elsewhere == {"d": "einsum"}
    found = factors(model, batch)
    same(found["a"].input, [mean_outer(batch[0])])
    for name in ("a", "b", "c"):
        exact = fisher_exact(
            model, (batch[0][:1], batch[1][:1]), CLASSIFY, "empirical", names=[name]
        )
        one = factors(model, (batch[0][:1], batch[1][:1]))[name]
        top = one.input.eigenvalues()[0, 0] * one.gradient.eigenvalues()[0, 0]
        torch.testing.assert_close(torch.linalg.eigvalsh(exact)[-1], top, rtol=1e-4, atol=1e-12)
    exact = fisher_exact(model, batch, CLASSIFY, "empirical", names=["scale"])
    values = torch.linalg.eigvalsh(exact).flip(0)[None]
    torch.testing.assert_close(found["scale"].input.eigenvalues(), values, rtol=1e-4, atol=1e-9)


def test_what_does_not_reach_the_loss_has_gradients_of_zero() -> None:
    torch.manual_seed(0)

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.last(x)

    found = factors(Branch(), classes(4, n=9)(0))
    assert not found["aside"].gradient.eigenvalues().any()
    assert found["last"].gradient.eigenvalues().any()


def test_nothing_of_the_graph_is_kept() -> None:
    """Hooks and outputs refer to each other; tensors that live on would add up over training."""
    kept: list[weakref.ref[Tensor]] = []

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            output = super().forward(input)
            kept.append(weakref.ref(output))
            return output

    torch.manual_seed(0)
    model = nn.Sequential(Watched(4, 5), nn.Tanh(), Watched(5, 5), nn.BatchNorm1d(5), Watched(5, 3))
    gc.disable()
    try:
        for kind in ("empirical", "exact"):
            collect(model, [classes(4, n=9)(0)] * 2, CLASSIFY, kind, training=True)
        assert len(kept) == 12
        assert [one() is None for one in kept] == [True] * 12
    finally:
        gc.enable()


class Inner(nn.Module):
    """Uses the slope of its first part at its input, which then has a gradient of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.other, self.last = nn.Linear(4, 1), nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_(True) * 2
            energy = torch.tanh(self.energy(y))
            (slope,) = torch.autograd.grad(energy.square().sum(), y, create_graph=True)
        return self.last(torch.cat([slope + energy, torch.relu(self.other(x))], 1))


def test_gradients_reach_what_has_a_gradient_of_its_own_inside() -> None:
    torch.manual_seed(0)
    model, batch = Inner(), classes(4, n=12)(0)
    found = factors(model, batch)
    for name, ((x, g),) in seen(model, batch, CLASSIFY, ["energy", "other", "last"]).items():
        same(found[name].input, [mean_outer(x)])
        same(found[name].gradient, [mean_outer(g)])


def test_outputs_of_any_kind_have_the_matrices_of_the_data() -> None:
    model, batch = linear(), classes(4, n=20)(0)
    inside = Task(
        forward=lambda model, batch: {"logits": model(batch[0])},
        loss=lambda outputs, batch: CLASSIFY.loss(outputs["logits"], batch),
        losses=lambda outputs, batch: CLASSIFY.losses(outputs["logits"], batch),
    )
    plain, found = factors(model, batch), factors(model, batch, inside)
    for name, one in plain.items():
        torch.testing.assert_close(one.gradient.eigenvalues(), found[name].gradient.eigenvalues())
    with pytest.raises(LayerscopeError, match="a dict, not a tensor"):
        factors(model, batch, inside, fisher="exact")


def test_the_model_is_left_as_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 3)
    )
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones(3, 4)
    before = copy.deepcopy(model.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    collect(model, [classes(4, n=9)(0)], CLASSIFY, training=True)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    assert torch.equal(model[3].weight.grad, torch.ones(3, 4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
