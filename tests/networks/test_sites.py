from __future__ import annotations

import copy
import functools
import io
import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.cases import CLASSIFY, classes
from tests.zoo.inventory import changes, inventory
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from layerscope.errors import LayerscopeError
from layerscope.models.resnet import resnet
from layerscope.networks.activations import visiting
from layerscope.networks.isolation import isolated
from layerscope.networks.sharing import base_weights
from layerscope.networks.sites import chosen_sites, find_sites
from layerscope.networks.tracing import traced
from layerscope.surgery import linearise, linearised


class Everything(nn.Module):
    """Modules called twice, functions, methods, in place, a clamp, a gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)
        self.c = nn.Linear(8, 3)
        self.act = nn.ReLU(inplace=True)
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        hidden = self.act(self.a(x))
        hidden = self.act(self.b(hidden))
        hidden = torch.relu(hidden - 0.1).tanh()
        hidden = F.relu(self.b(hidden), True)
        hidden = F.silu(self.gate(hidden)) * hidden
        return self.c(hidden.clamp(min=0).sub_(0.2).relu_()).softmax(-1)


NAMES = ["act", "act#2", "relu()", "tanh()", "relu()#2", "silu()", "clamp()", "relu()#3"]
KINDS = ["ReLU", "ReLU", "ReLU", "Tanh", "ReLU", "SiLU", "ReLU", "ReLU"]


@pytest.fixture
def everything():
    torch.manual_seed(0)
    return Everything()


@pytest.fixture
def x():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_every_way_to_call_an_activation_is_found_in_order(everything, x):
    before = inventory(everything)
    sites = find_sites(everything, x)
    assert [site.name for site in sites] == NAMES
    assert [site.kind for site in sites] == KINDS
    assert [site.name for site in sites if site.gated] == ["silu()"]
    assert [site.index for site in sites] == list(range(8))
    assert not any(site.linear for site in sites)
    assert changes(before, inventory(everything)) == []


def straight(model, x, linear):
    """The same model written out, with activations by index replaced by the identity."""
    kinds = dict(enumerate([torch.relu] * 3 + [torch.tanh, torch.relu, F.silu] + [torch.relu] * 2))
    act = [(lambda z: z) if i in linear else kinds[i] for i in range(8)]
    hidden = act[1](model.b(act[0](model.a(x))))
    hidden = act[4](model.b(act[3](act[2](hidden - 0.1))))
    hidden = act[5](model.gate(hidden)) * hidden
    return model.c(act[7](act[6](hidden) - 0.2)).softmax(-1)


@pytest.mark.parametrize(
    "which", [(), ("first:3",), ("last:2",), ("all",), ("1", "3"), ("relu()*",)]
)
def test_linearised_models_compute_what_is_written_out(everything, x, which):
    sites = find_sites(everything, x)
    indices = {site.index for site in chosen_sites(sites, which)}
    made = linearise(everything, which, x)
    expected = straight(everything, x, indices)
    torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(copy.deepcopy(made)(x), expected)
    with linearised(everything, which, x) as same:
        assert same is everything
        torch.testing.assert_close(everything(x), expected)
    torch.testing.assert_close(everything(x), straight(everything, x, set()))
    assert made.state_dict().keys() == everything.state_dict().keys()


def test_linearising_none_changes_nothing_bit_for_bit(everything, x):
    made = linearise(everything, (), x)
    assert torch.equal(made(x), everything(x))
    assert not any("forward" in vars(module) for module in made.modules())


def test_gradients_are_those_of_the_written_out_model(everything, x):
    made = linearise(everything, ("act#2", "silu()", "tanh()"), x)
    loss = made(x).square().sum()
    expected = straight(everything, x, {1, 3, 5}).square().sum()
    found = torch.autograd.grad(loss, list(made.parameters()))
    for a, b in zip(
        found, torch.autograd.grad(expected, list(everything.parameters())), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_linear_sites_are_still_seen_and_say_so(everything, x):
    made = linearise(everything, ("act#2", "tanh()", "relu()#3"), x)
    sites = find_sites(made, x)
    assert [site.name for site in sites] == NAMES
    assert [site.kind for site in sites] == KINDS
    assert [site.name for site in sites if site.linear] == ["act#2", "tanh()", "relu()#3"]
    again = linearise(made, "first:1", x)
    assert [site.index for site in find_sites(again, x) if site.linear] == [0, 1, 3, 7]


def test_a_linearised_model_is_saved_and_loaded_whole(everything, x):
    made = linearise(everything, "first:4", x)
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), made(x))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.parts = nn.ModuleList(Part() for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x):
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=self.reentrant)
        return x


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return F.relu(self.linear(x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_parts_that_are_computed_again_for_the_backward_pass_are_linear_there_too(reentrant, x):
    torch.manual_seed(0)
    model = linearise(Checkpointed(reentrant), ("first:1", "last:1"), x)
    plain = nn.Sequential(*(part.linear for part in model.parts))
    plain.insert(2, nn.ReLU())
    inputs = x.clone().requires_grad_()
    expected = torch.autograd.grad(plain(inputs).square().sum(), list(plain.parameters()))
    loss = model(inputs).square().sum()
    loss.backward()
    for parameter, slope in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, slope)


def test_nodes_lie_on_channels_behind_convolutions_and_on_the_last_dimension_elsewhere():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)
            self.linear = nn.Linear(6, 5)

        def forward(self, x):
            hidden = torch.relu(self.norm(self.conv(x)))
            return torch.tanh(self.linear(hidden.transpose(1, 2)))

    sites = find_sites(Mixed(), torch.randn(2, 3, 9))
    assert [site.axis for site in sites] == [1, -1]


def test_a_resnet_has_a_site_for_every_convolution_of_its_main_path():
    model = resnet((3, 8, 8), 10, 18, version=1, width=1 / 16)
    sites = find_sites(model, torch.randn(2, 3, 8, 8))
    assert len(sites) == 17
    assert sites[0].name == "stage0.activation"
    assert sites[-1].name == "stage4.resblk2.activation"
    assert {site.axis for site in sites} == {1}
    assert not any(site.gated for site in sites)


def tokens():
    return {"input_ids": torch.arange(16).view(2, 8)}


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
FOREIGN = {
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(
                n_layer=2, n_head=2, n_embd=16, vocab_size=50, bos_token_id=1, eos_token_id=2
            )
        ),
        ["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"],
        [False, False],
    ),
    "bert": (
        lambda: BertForSequenceClassification(BertConfig(intermediate_size=32, **TINY)),
        [
            "bert.encoder.layer.0.intermediate.intermediate_act_fn",
            "bert.encoder.layer.1.intermediate.intermediate_act_fn",
            "bert.pooler.activation",
        ],
        [False] * 3,
    ),
    "llama": (
        lambda: LlamaForCausalLM(LlamaConfig(intermediate_size=32, **TINY)),
        ["model.layers.0.mlp.act_fn", "model.layers.1.mlp.act_fn"],
        [True, True],
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_sites_of_transformers(name):
    build, names, gated = FOREIGN[name]
    model = build().eval()
    sites = find_sites(model, tokens())
    assert [site.name for site in sites] == names
    assert [site.gated for site in sites] == gated
    assert {site.axis for site in sites} == {-1}
    made = linearise(model, "last:1", tokens())
    assert [site.linear for site in find_sites(made, tokens())] == [False] * (len(names) - 1) + [
        True
    ]
    with torch.no_grad():
        assert not torch.equal(made(**tokens()).logits, model(**tokens()).logits)
        assert torch.equal(
            linearise(model, (), tokens())(**tokens()).logits, model(**tokens()).logits
        )


@pytest.mark.parametrize("activation", ["relu", nn.GELU()])
def test_the_fused_encoder_layer_does_not_pass_by(activation):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    (site,) = find_sites(layer, x)
    made = linearise(layer, "all", x)
    with torch.no_grad():
        mixed = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
        expected = layer.norm2(mixed + layer.linear2(layer.linear1(mixed)))
        torch.testing.assert_close(made(x), expected)
    assert site.kind == ("ReLU" if activation == "relu" else "GELU")


def test_visitors_see_what_enters_and_may_replace_what_leaves(everything, x):
    seen = {}

    def double(call):
        seen[call.name] = call.input.clone()
        return 2 * call.run(call.input)

    with isolated(everything), torch.no_grad():
        with visiting(everything, double):
            found = everything(x)
        first = 2 * torch.relu(everything.a(x))
        torch.testing.assert_close(seen["act#2"], everything.b(first))
        assert list(seen) == NAMES
        assert not torch.equal(found, everything(x))


def test_an_activation_in_place_shows_in_whatever_shares_its_input(x):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            z = self.linear(x)
            return self.act(z) + z

    model = Shared()
    with isolated(model), torch.no_grad(), visiting(model, lambda call: -call.run(call.input)):
        torch.testing.assert_close(model(x), -2 * torch.relu(model.linear(x)))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("first:9", "matches no activation"),
        ("nothing*", "act, act#2"),
        ("8", "It has 8"),
        ("", "matches no"),
    ],
)
def test_what_is_not_there_is_named(everything, x, which, message):
    with pytest.raises(LayerscopeError, match=message):
        linearise(everything, which, x)


def test_an_example_that_does_not_run_is_named(everything):
    with pytest.raises(LayerscopeError, match="Everything does not run on the example"):
        find_sites(everything, torch.randn(2, 5))


def test_a_model_without_activations_has_no_sites(x):
    assert find_sites(nn.Linear(4, 2), x) == ()
    with pytest.raises(LayerscopeError, match="It has 0: none"):
        linearise(nn.Linear(4, 2), "all", x)


def test_a_model_of_linear_sites_is_one_affine_map(everything, x):
    class Deep(nn.Sequential):
        pass

    torch.manual_seed(2)
    deep = Deep(
        nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)
    )
    made = linearise(deep.double().eval(), "all", x.double())
    zero = made(torch.zeros(1, 4, dtype=torch.float64))
    matrix = made(torch.eye(4, dtype=torch.float64)) - zero
    torch.testing.assert_close(made(x.double()), x.double() @ matrix + zero)


def test_a_linearised_model_is_traced_as_what_it_computes():
    torch.manual_seed(0)
    model = resnet((3, 8, 8), 4, 18, version=1, width=1 / 16, residual=False)
    made = linearise(model, "first:9", torch.randn(2, 3, 8, 8)).eval()
    batch = classes(3, 8, 8, n_classes=4)(0)
    base = base_weights(made, None)
    with isolated(made, weights=base), torch.no_grad():
        graph = traced(made, CLASSIFY, base, batch)
        assert graph is not None
        torch.testing.assert_close(graph.base_outputs(base, batch), made(batch[0]))
        with visiting(made, lambda call: call.run(call.input)):
            again = traced(made, CLASSIFY, base, batch)
            assert again is not None
            torch.testing.assert_close(again.base_outputs(base, batch), made(batch[0]))


def test_task_forward_finds_the_sites_of_a_batch(everything, x):
    batch = (x, torch.zeros(5, dtype=torch.long))
    assert len(find_sites(everything, batch, CLASSIFY.forward)) == 8


class Only(nn.Module):
    """A layer and what acts on it."""

    def __init__(self, act, layer=None):
        super().__init__()
        self.layer = layer or nn.Linear(4, 4)
        self.act = act

    def forward(self, x):
        return self.act(self.layer(x))


OTHER_WAYS = {
    "keyword": lambda x: torch.relu(input=x),
    "keyword of torch.nn.functional": lambda x: F.gelu(input=x),
    "packet of torch.ops": lambda x: torch.ops.aten.relu(x),
    "operator of torch.ops": lambda x: torch.ops.aten.relu.default(x),
    "clamp of torch.ops": lambda x: torch.ops.aten.clamp_min.default(x, 0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "vmap": lambda x: torch.vmap(torch.relu)(x),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_functions_under_other_names_are_found_and_linearised(x, way):
    model = Only(OTHER_WAYS[way])
    assert len(find_sites(model, x)) == 1
    torch.testing.assert_close(linearise(model, "all", x)(x), model.layer(x))


def test_a_module_called_by_keyword_is_a_site(x):
    class ByKeyword(Only):
        def forward(self, x):
            return self.act(input=self.layer(x))

    model = ByKeyword(nn.ReLU())
    assert [site.name for site in find_sites(model, x)] == ["act"]
    torch.testing.assert_close(linearise(model, "all", x)(x), model.layer(x))


class SecretReLU(nn.Module):
    """Works in place and does not say so."""

    def forward(self, x):
        return x.relu_()


def test_what_enters_an_activation_that_works_in_place_unannounced_is_seen_as_it_was(x):
    class Shared(Only):
        def forward(self, x):
            z = self.layer(x)
            return self.act(z) + z

    model, seen = Shared(SecretReLU()), {}

    def visit(call):
        output = call.run(call.input)
        seen["before"], seen["after"] = call.input.clone(), output.clone()
        return output

    with isolated(model), torch.no_grad():
        expected, z = model(x), model.layer(x)
        with visiting(model, visit):
            torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(seen["before"], z)
    torch.testing.assert_close(seen["after"], torch.relu(z))
    torch.testing.assert_close(linearise(model, "all", x)(x), 2 * model.layer(x))


class ReLULinear(nn.Linear):
    """Called after an activation, but a layer."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class CReLU(nn.Module):
    """Twice as many channels leave as enter."""

    def forward(self, x):
        return torch.cat([torch.relu(x), torch.relu(-x)], -1)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (ReLULinear(4, 3), ["relu()"]),
        (nn.Sequential(nn.Linear(4, 5), CReLU(), nn.Linear(10, 4), nn.PReLU()), ["3"]),
        (Only(lambda x: torch.tanh(x * torch.arange(-2, 2).clamp(min=0))), ["tanh()"]),
    ],
)
def test_what_is_no_activation_is_no_site(model, names, x):
    assert [site.name for site in find_sites(model, x)] == names
    linearise(model, "all", x)(x)


def test_parametrisations_are_no_sites(x):
    class Positive(nn.Module):
        def forward(self, weight):
            return F.softplus(weight)

    model = Only(torch.tanh, nn.Linear(4, 4, bias=False))
    parametrize.register_parametrization(model.layer, "weight", Positive())
    parametrize.register_parametrization(model.layer, "weight", nn.Softplus())
    (site,) = find_sites(model, x)
    assert (site.name, site.behind) == ("tanh()", "layer")
    torch.testing.assert_close(linearise(model, "all", x)(x), model.layer(x))


class Scaled(nn.Module):
    """A residual block with a scale of its own, as ReZero has it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.PReLU(3)

    def forward(self, x):
        return torch.relu(x + self.scale * self.act(self.conv(x)))


class OwnConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight)


def test_scales_and_activations_that_learn_leave_the_nodes_where_they_are():
    images = torch.randn(2, 3, 6, 6)
    model = nn.Sequential(Scaled(), nn.ReLU(), OwnConvolution(), nn.ReLU())
    assert [site.axis for site in find_sites(model, images)] == [1, 1, 1, 1]
    last = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(6, 6), nn.ReLU())
    assert [site.axis for site in find_sites(last, images)] == [-1]


def test_finding_sites_keeps_no_activations(x):
    alive = []

    class Watched(Only):
        def forward(self, x):
            hidden = self.act(self.layer(x))
            alive.append(weakref.ref(hidden))
            hidden = hidden + 1
            assert alive[-1]() is None
            return hidden

    find_sites(Watched(nn.ReLU()), x)
    assert len(alive) == 1


@pytest.mark.parametrize("act", [SecretReLU(), nn.ReLU(inplace=True), nn.Identity()])
def test_activations_that_work_in_place_do_so_inside_transformations(act, x):
    twice = nn.Sequential(Only(act), Only(act))
    expected = twice(x)
    with isolated(twice), torch.no_grad(), visiting(twice, lambda call: call.run(call.input)):
        torch.testing.assert_close(torch.vmap(twice)(x), expected)
        torch.testing.assert_close(torch.func.functionalize(twice)(x), expected)


@pytest.mark.parametrize("act", [SecretReLU(), nn.ReLU(inplace=True), torch.relu])
def test_models_run_and_are_searched_in_inference_mode(act, x):
    class Inferring(Only):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    assert [site.linear for site in find_sites(Inferring(act), x)] == [False]
    twice = nn.Sequential(Only(act), Only(act))
    made = linearise(twice, "last:1", x)
    expected = twice[1].layer(torch.relu(twice[0].layer(x)))
    with torch.inference_mode():
        given = x.clone()
        torch.testing.assert_close(made(given), expected)
        torch.testing.assert_close(made(given), expected)
    assert len(find_sites(nn.Sequential(nn.ReLU()), given)) == 1


def test_what_runs_only_in_train_mode_moves_no_number(x):
    class Auxiliary(nn.Module):
        def forward(self, x):
            return torch.relu(x).mean()

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.auxiliary = nn.Linear(4, 4), nn.Linear(4, 4), Auxiliary()

        def forward(self, x):
            hidden = torch.relu(self.a(x))
            more = self.auxiliary(hidden) if self.training else 0
            return torch.relu(self.b(hidden)) + 0 * more

    model = Branching()
    made = linearise(model, ("relu()#2",), x)
    torch.testing.assert_close(made.train()(x), model.b(torch.relu(model.a(x))))


def test_a_model_that_calls_itself_numbers_its_calls(x):
    class Recursive(Only):
        def forward(self, x, depth=2):
            hidden = torch.tanh(self.layer(x))
            return self(hidden, depth - 1) if depth else hidden

    model = Recursive(nn.ReLU())
    assert [site.name for site in find_sites(model, x)] == ["tanh()", "tanh()#2", "tanh()#3"]


def test_a_copy_that_runs_the_original_is_refused(x):
    model = Only(nn.ReLU())
    forward = model.forward
    model.forward = lambda x: forward(x)
    with pytest.raises(LayerscopeError, match="copy of Only runs modules of the original"):
        linearise(model, "all", x)
    with linearised(model, "all", x):
        torch.testing.assert_close(model(x), model.layer(x))


def test_sites_of_modules_that_other_libraries_wrap(x):
    """As accelerate does: the old method is kept, a partial function stands in its place."""

    def run(module, *args):
        return module.old_forward(*args)

    model = Only(nn.ReLU())
    for module in (model, model.layer, model.act):
        module.old_forward = module.forward
        module.forward = functools.partial(run, module)
    assert [site.name for site in find_sites(model, x)] == ["act"]
    torch.testing.assert_close(linearise(model, "all", x)(x), model.layer(x))


def test_linearised_models_can_be_called_with_other_parameters(x):
    model = Only(torch.relu)
    made = linearise(model, "all", x)
    twice = {name: 2 * tensor.detach() for name, tensor in model.named_parameters()}
    found = torch.func.functional_call(made, twice, (x,))
    torch.testing.assert_close(found, 2 * model.layer(x))
    both = {name: torch.stack([tensor, tensor]) for name, tensor in twice.items()}
    stacked = torch.vmap(lambda given: torch.func.functional_call(made, given, (x,)))(both)
    torch.testing.assert_close(stacked[1], found)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, slope):
        return slope * (ctx.saved_tensors[0] > 0)


class ClippedReLU(nn.Module):
    def forward(self, x):
        return Clipped.apply(x)


def test_activations_whose_backward_pass_would_stay_are_not_left_out(x):
    model = Only(Clipped.apply)
    assert [site.own_backward for site in find_sites(model, x)] == [True]
    with pytest.raises(LayerscopeError, match=r"'clamp\(\)' acts inside of a torch"):
        linearise(model, "all", x)
    with pytest.raises(LayerscopeError, match="whose backward"), linearised(model, "all", x):
        pass
    whole = Only(ClippedReLU())
    made = linearise(whole, "all", x)
    (found,) = torch.autograd.grad(made(x).sum(), made.layer.weight)
    (expected,) = torch.autograd.grad(whole.layer(x).sum(), whole.layer.weight)
    torch.testing.assert_close(found, expected)
