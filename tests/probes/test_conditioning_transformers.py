"""Models of Transformers with random weights, against a loop over examples and positions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from tests.reference.factors import by_position, mean_outer
from torch import Tensor, nn

from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes import Conditioning
from layerscope.probes.base import Moment

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 8}
BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 11,
    "max_position_embeddings": 8,
}
T5 = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
MODELS = {
    "GPT2LMHeadModel": (
        "GPT2Config",
        GPT2 | SPECIAL,
        "h.0.attn.c_attn",
        "h.0.mlp.c_proj",
        "wte",
        "lm_head",
    ),
    "BertForMaskedLM": (
        "BertConfig",
        BERT,
        "layer.0.attention.self.key",
        "layer.0.intermediate.dense",
        "word_embeddings",
        "decoder",
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        T5 | {"decoder_start_token_id": 0},
        "EncDecAttention.v",
        "decoder.block.0.layer.2.DenseReluDense.wi",
        "encoder.embed_tokens",
        "lm_head",
    ),
}
SHARES = (0.2, 0.4)


@pytest.fixture
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages, while it is imported
        return pytest.importorskip("transformers")


def batch() -> dict[str, Tensor]:
    """Sentences of which tokens are left out of attention, and others out of the loss."""
    ids = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    seen = torch.arange(6) < torch.tensor([[6], [4], [6], [5]])
    counted = seen & (torch.arange(6) != 2)
    return {
        "input_ids": ids,
        "attention_mask": seen.long(),
        "labels": torch.where(counted, ids, -100),
    }


def summed(model: nn.Module, example: dict[str, Tensor]) -> Tensor:
    """Losses of the tokens of one example, written out: each is predicted by the one before."""
    logits, labels = model(**example).logits[0], example["labels"][0]
    terms = [
        -torch.log_softmax(logits[t], -1)[labels[t + 1]]
        for t in range(len(labels) - 1)
        if labels[t + 1] != -100
    ]
    return torch.stack(terms).sum()


def modules_of(model: nn.Module, ending: str) -> list[nn.Module]:
    """The module of that name; of an embedding all that look up in its weight."""
    named = [module for name, module in model.named_modules() if name.endswith(ending)]
    assert len(named) == 1
    if not isinstance(named[0], nn.Embedding):
        return named
    every = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [module for module in every if module.weight is named[0].weight]


@pytest.mark.parametrize("kind", MODELS)
def test_positions_of_projections_embeddings_and_tied_heads(kind: str, transformers: Any) -> None:
    config, settings, *endings = MODELS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).double().eval()
    given, task = batch(), Task.language_model()
    layers = LayerMap.from_model(model, given, forward=task.forward)
    moment = Moment(0, dict(model.state_dict()), model=model, task=task, batch=given)
    probe = Conditioning(mode="eval", shares=SHARES)
    rows = probe.rows(layers, moment)
    found = probe.measure(moment, rows)
    examples = [{name: value[n : n + 1] for name, value in given.items()} for n in range(4)]
    for ending in endings:
        (at,) = [i for i, name in enumerate(rows.names) if name.endswith(ending)]
        x, g = by_position(model, examples, summed, modules_of(model, ending))
        s_x, s_g = mean_outer(x), mean_outer(g)
        for end, matrix in {"_input": s_x, "_gradient": s_g, "": torch.kron(s_x, s_g)}.items():
            values = torch.linalg.eigvalsh(matrix).flip(0)
            numbers = {"largest": values[0], "trace": values.sum()}
            for p in SHARES:
                other = values[math.ceil(round(p * len(values), 6)) - 1]
                assert other > 1e-11 * values[0]  # above what rounding may do
                numbers[f"kappa_{100 * p:g}"] = values[0] / other
            for name, expected in numbers.items():
                got = float(found[f"{name}{end}"][at])
                assert got == pytest.approx(float(expected), rel=1e-4), (ending, name, end)
