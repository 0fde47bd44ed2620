from __future__ import annotations

import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.cases import CNN, FCN, RESIDUAL, TRANSFORMER
from tests.training_loop import hooks
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap

IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)}
TOKENS = {"input_ids": torch.arange(16).view(2, 8)}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STAGED = {"hidden_sizes": [8, 16], "depths": [2, 1]}
LAYERS_OF_STAGES = [
    f"encoder.stages.{place}" for place in ("0.layers.0", "0.layers.1", "1.layers.0")
]
STAGES = ["encoder.stages.0", "encoder.stages.1"]
FOREIGN = {
    "ResNet": (
        "ResNet",
        STAGED | {"embedding_size": 8, "layer_type": "basic"},
        IMAGES,
        LAYERS_OF_STAGES,
        STAGES,
    ),
    "ResNet of bottlenecks": (
        "ResNet",
        STAGED | {"embedding_size": 8, "layer_type": "bottleneck"},
        IMAGES,
        LAYERS_OF_STAGES,
        STAGES,
    ),
    "RegNetX": (
        "RegNet",
        STAGED | {"embedding_size": 8, "groups_width": 4, "layer_type": "x"},
        IMAGES,
        LAYERS_OF_STAGES,
        STAGES,
    ),
    "RegNetY": (  # with squeeze-and-excitation
        "RegNet",
        STAGED | {"embedding_size": 8, "groups_width": 4, "layer_type": "y"},
        IMAGES,
        LAYERS_OF_STAGES,
        STAGES,
    ),
    "ConvNext": ("ConvNext", STAGED | {"num_stages": 2}, IMAGES, LAYERS_OF_STAGES, STAGES),
    "Swin": (
        "Swin",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        IMAGES,
        ["encoder.layers.0.blocks.0", "encoder.layers.0.blocks.1", "encoder.layers.1.blocks.0"],
        ["encoder.layers.0", "encoder.layers.1"],
    ),
    "MobileNetV2": (
        "MobileNetV2",
        {"depth_multiplier": 0.1, "min_depth": 4, "image_size": 32},
        IMAGES,
        [f"layer.{i}" for i in range(16)],
        ["layer"],
    ),
    "ViT": (
        "ViT",
        {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": 32,
            "patch_size": 16,
        },
        IMAGES,
        ["layers.0", "layers.1"],
        ["layers"],
    ),
    "T5": (
        "T5",
        {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2},
        TOKENS | {"decoder_input_ids": TOKENS["input_ids"]},
        ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"],
        ["encoder.block", "decoder.block"],
    ),
    "Bert": ("Bert", TEXT, TOKENS, ["encoder.layer.0", "encoder.layer.1"], ["encoder.layer"]),
    "GPT2": (
        "GPT2",
        {
            "vocab_size": 20,
            "n_embd": 8,
            "n_layer": 2,
            "n_head": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        TOKENS,
        ["h.0", "h.1"],
        ["h"],
    ),
    "Llama": ("Llama", TEXT, TOKENS, ["layers.0", "layers.1"], ["layers"]),
    "Mixtral": (
        "Mixtral",
        TEXT | {"num_key_value_heads": 2, "num_local_experts": 3},
        TOKENS,
        ["layers.0", "layers.1"],
        ["layers"],
    ),
}
"""Family, configuration, example, blocks and stages as a reader of the model would name them."""


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever importing it warns of
        return pytest.importorskip("transformers")


@pytest.mark.parametrize("name", FOREIGN)
def test_blocks_and_stages_of_transformers(name, transformers):
    family, settings, example, blocks, stages = FOREIGN[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}Model")(config)
    assert named(model, example, "block") == blocks
    assert named(model, example, "stage") == stages
    assert named(model, None, "block") == blocks  # none of these needs the example


def named(model, example, unit):
    """The layers of more than one module: what the unit joined."""
    layers = LayerMap.from_model(model, example, unit=unit)
    assert sorted(layers.parameter_names) == sorted(n for n, _ in model.named_parameters())
    return [layer.name for layer in layers if len(layer.modules) > 1]


class Chained(nn.Module):
    """Runs its parts in order; ``parts`` by name."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class Residual(Chained):
    def forward(self, x):
        return x + super().forward(x)


class Bottleneck(nn.Module):
    """A residual block as torchvision writes it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(branch + (x if self.downsample is None else self.downsample(x)))


def torchvision_resnet() -> nn.Module:
    return Chained(
        conv1=nn.Conv2d(3, 4, 3),
        bn1=nn.BatchNorm2d(4),
        layer1=nn.Sequential(Bottleneck(4, 4), Bottleneck(4, 4)),
        layer2=nn.Sequential(Bottleneck(4, 8)),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(8, 3),
    )


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1, bias=False)

    def forward(self, before):
        hidden = self.conv1(F.relu(self.norm1(torch.cat(before, 1))))
        return self.conv2(F.relu(self.norm2(hidden)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, inputs: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(inputs + 4 * i) for i in range(3)})

    def forward(self, x):
        found = [x]
        for layer in self.values():
            found.append(layer(found))
        return torch.cat(found, 1)


def densenet() -> nn.Module:
    """As torchvision writes it."""
    features = nn.Sequential()
    features.add_module("conv0", nn.Conv2d(3, 4, 3))
    features.add_module("denseblock1", DenseBlock(4))
    features.add_module("transition1", nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)))
    features.add_module("denseblock2", DenseBlock(4))
    return Chained(
        features=features,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(16, 3),
    )


def feed_forward(width: int = 6) -> nn.Module:
    return Chained(up=nn.Linear(width, 9), act=nn.ReLU(), down=nn.Linear(9, width))


class Experts(nn.Module):
    """A block with a choice of experts, each on the examples that the router sends it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(6, 6)
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(feed_forward() for _ in range(3))

    def forward(self, x):
        x = x + self.attention(x)
        chosen = self.router(x).argmax(1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            out[chosen == i] = expert(x[chosen == i])
        return x + out


class Pairs(nn.Module):
    """A list of lists, which the model's own code runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.MultiheadAttention(6, 2, batch_first=True), feed_forward()])
            for _ in range(2)
        )

    def forward(self, x):
        x = x[:, None]
        for attention, feed in self.layers:
            x = x + attention(x, x, x)[0]
            x = x + feed(x)
        return x


class Branches(nn.Module):
    """Sequentials in a list, with the residual connection in the model's code."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)) for _ in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm
    return nn.ModuleList(
        nn.Sequential(normed(nn.Conv1d(2, 2, 1)), nn.BatchNorm1d(2), nn.ReLU()) for _ in range(2)
    )


def staged() -> nn.Module:
    """Stages with a downsampling of their own in the same Sequential as the blocks."""
    return Chained(
        body=nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 2, 2), Bottleneck(4, 4), Bottleneck(4, 4)),
            nn.Sequential(nn.Conv2d(4, 8, 2, 2), Bottleneck(8, 8), Bottleneck(8, 8)),
        )
    )


PIXELS, ROWS = torch.ones(2, 3, 8, 8), torch.linspace(-1, 1, 24).view(4, 6)
HAND_MADE = {
    "torchvision's ResNet": (
        torchvision_resnet,
        PIXELS,
        ["layer1.0", "layer1.1", "layer2.0"],
        ["layer1", "layer2"],
    ),
    "the same behind a normalisation": (
        lambda: nn.Sequential(nn.Identity(), torchvision_resnet()),
        PIXELS,
        ["1.layer1.0", "1.layer1.1", "1.layer2.0"],
        ["1.layer1", "1.layer2"],
    ),
    "torchvision's DenseNet": (
        densenet,
        PIXELS,
        ["features.denseblock1", "features.denseblock2"],
        ["features"],
    ),
    "downsampling beside the blocks": (
        staged,
        PIXELS,
        ["body.0.1", "body.0.2", "body.1.1", "body.1.2"],
        ["body.0", "body.1"],
    ),
    "experts": (
        lambda: Chained(layers=nn.Sequential(Experts(), Experts())),
        ROWS,
        ["layers.0", "layers.1"],
        ["layers"],
    ),
    "lists of lists": (Pairs, ROWS, ["layers.0", "layers.1"], ["layers"]),
    "Sequentials": (Branches, ROWS, ["layers.0", "layers.1"], ["layers"]),
    "blocks by name": (
        lambda: Chained(
            blocks=nn.Sequential(
                nn.Linear(6, 6), Residual(a=feed_forward()), Residual(a=feed_forward())
            )
        ),
        ROWS,
        ["blocks.1", "blocks.2"],
        ["blocks"],
    ),
    "a small one among its like": (
        lambda: Chained(
            blocks=nn.Sequential(
                Residual(a=feed_forward()), Residual(a=nn.Linear(6, 6), norm=nn.LayerNorm(6))
            )
        ),
        ROWS,
        ["blocks.0", "blocks.1"],
        ["blocks"],
    ),
    "a head in a Sequential": (
        lambda: nn.Sequential(
            nn.Sequential(Residual(a=feed_forward()), Residual(a=feed_forward())),
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        ),
        ROWS,
        ["0.0", "0.1"],
        ["0"],
    ),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_blocks_and_stages_of_models_made_by_hand(name):
    build, example, blocks, stages = HAND_MADE[name]
    torch.manual_seed(0)
    assert named(build(), example, "block") == blocks
    assert named(build(), example, "stage") == stages


def test_without_an_example_every_list_of_one_class_counts_as_a_chain():
    layers = [f"features.denseblock{i}.denselayer{j}" for i in (1, 2) for j in (1, 2, 3)]
    assert named(densenet(), None, "block") == layers
    assert named(densenet(), None, "stage") == ["features.denseblock1", "features.denseblock2"]


@pytest.mark.parametrize("build", [FCN.build, CNN.build, weight_normed])
def test_a_convolution_with_its_normalisation_is_no_block(build):
    with pytest.raises(LayerscopeError, match="has no block: no modules with two or more weight"):
        LayerMap.from_model(build(), None, unit="block")


@pytest.mark.parametrize("case", [RESIDUAL, TRANSFORMER], ids=lambda case: case.name)
def test_looking_for_blocks_leaves_no_hook(case):
    model = case.model()
    case.map(model, unit="block")
    assert hooks(model) == 0


def test_looking_for_blocks_keeps_no_activation_alive():
    returned, alive = [], []

    class Remembered(Residual):
        def forward(self, x):
            found = super().forward(x)
            returned.append(weakref.ref(found))
            return found

    class Last(nn.Linear):
        def forward(self, x):
            alive.extend(reference() is not None for reference in returned)
            return super().forward(x)

    model = Chained(
        blocks=nn.Sequential(Remembered(a=feed_forward()), Remembered(a=feed_forward())),
        head=nn.Linear(6, 4),
        last=Last(4, 3),
    )
    assert named(model, ROWS, "block") == ["blocks.0", "blocks.1"]
    assert alive == [False, False]
