"""Models of Transformers, tiny, with random weights; imported when one is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.cases import CLASSIFY, classes
from tests.zoo.specimen import NO_ATTACK, NO_CLASSES, NO_DISTRIBUTION, Specimen
from torch import nn

from layerscope.networks.task import Task
from layerscope.probes import LossLandscape, Reinitialisation

IMAGES = Task(
    lambda model, batch: model(batch[0]).logits,
    CLASSIFY.loss,
    CLASSIFY.losses,
    CLASSIFY.correct,
    "image classification",
)
TEXTS = Task(
    lambda model, batch: model(**{k: v for k, v in batch.items() if k != "label"}).logits,
    lambda outputs, batch: nn.functional.cross_entropy(outputs, batch["label"]),
    lambda outputs, batch: nn.functional.cross_entropy(outputs, batch["label"], reduction="none"),
    lambda outputs, batch: outputs.argmax(1) == batch["label"],
    "text classification",
)


def _model(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, config)(**options))

    return build


def _tokens(seed: int, padded: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 23, (4, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [4], [5], [3]])
    if not padded:
        return {"input_ids": ids}
    labels = ids.masked_fill(~mask, -100)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _texts(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {k: v for k, v in _tokens(seed).items() if k != "labels"}
    return batch | {"label": torch.randint(3, (4,), generator=generator)}


def _encoding(seed: int) -> Any:
    from transformers import BatchEncoding

    return BatchEncoding(_texts(seed))


_QUICK = {
    "loss_landscape": LossLandscape(points=1, draws=2, hessian=False),
    "reinitialisation": Reinitialisation(draws=1, checkpoints=(0,)),
}
_images = classes(3, 8, 8, n=4)
_GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 23, "n_positions": 8}
_BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 23,
    "max_position_embeddings": 8,
}
_LLAMA = _BERT | {"num_key_value_heads": 1}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_bert = _model("BertForSequenceClassification", "BertConfig", num_labels=3, **_BERT)

FOREIGN = (
    Specimen(
        "GPT-2",
        _model("GPT2LMHeadModel", "GPT2Config", **_GPT2, **_SPECIAL),
        _tokens,
        Task.language_model(),
        refused=NO_ATTACK | NO_CLASSES,
        probes=_QUICK,
        unit="block",
    ),
    Specimen(
        "BERT",
        _bert,
        _encoding,
        TEXTS,
        refused=NO_ATTACK | NO_CLASSES | NO_DISTRIBUTION,
        probes=_QUICK,
        unit="block",
    ),
    Specimen(
        "Llama",
        _model("LlamaForCausalLM", "LlamaConfig", **_LLAMA, **_SPECIAL),
        _tokens,
        Task.language_model(),
        refused=NO_ATTACK | NO_CLASSES,
        probes=_QUICK,
        unit="block",
    ),
    Specimen(
        "Mixtral",
        _model(
            "MixtralForCausalLM",
            "MixtralConfig",
            **(_LLAMA | {"num_hidden_layers": 1}),
            **_SPECIAL,
            num_local_experts=2,
            num_experts_per_tok=1,
        ),
        lambda seed: _tokens(seed, False),
        Task.language_model(),
        refused=NO_ATTACK | NO_CLASSES,
        probes=_QUICK,
    ),
    Specimen(
        "T5",
        _model(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=23,
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        ),
        _tokens,
        Task.language_model(),
        refused=NO_ATTACK | NO_CLASSES,
        probes=_QUICK,
        unit="block",
    ),
    Specimen(
        "ViT",
        _model(
            "ViTForImageClassification",
            "ViTConfig",
            image_size=8,
            patch_size=4,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
        ),
        _images,
        IMAGES,
        probes=_QUICK,
    ),
    Specimen(
        "ResNet",
        _model(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=4,
            hidden_sizes=[4, 8],
            depths=[1, 1],
            layer_type="basic",
            num_labels=3,
        ),
        classes(3, 16, 16, n=4),
        IMAGES,
        probes=_QUICK,
    ),
    Specimen(
        "Swin",
        _model(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=16,
            patch_size=2,
            embed_dim=4,
            depths=[2, 1],
            num_heads=[1, 2],
            window_size=2,
            num_labels=3,
        ),
        classes(3, 16, 16, n=4),
        IMAGES,
        probes=_QUICK,
        unit="block",
    ),
    Specimen(
        "ConvNeXt",
        _model(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[4, 8],
            depths=[1, 1],
            num_stages=2,
            num_labels=3,
        ),
        classes(3, 16, 16, n=4),
        IMAGES,
        probes=_QUICK,
    ),
)
