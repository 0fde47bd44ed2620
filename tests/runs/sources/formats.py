"""Checkpoints as the libraries write them that people use: one case for each format."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


class Net(nn.Module):
    """A small network with buffers, an integer among them, and tensors of several types."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.norm = nn.BatchNorm1d(8)
        self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(11))
        self.half = nn.Linear(8, 4, dtype=torch.bfloat16)
        self.head = nn.Linear(8, 3, dtype=torch.float16)


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def gpt2(seed=0):
    """A model of Transformers whose head is tied to its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 23, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def safetensors(folder, model):
    save_file(model.state_dict(), folder / "model-7.safetensors")
    return folder / "model-7.safetensors"


def plain(folder, model):
    torch.save(model.state_dict(), folder / "step7.pt")
    return folder / "step7.pt"


def without_checksums(folder, model):
    """As some save large models faster."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return plain(folder, model)
    finally:
        torch.serialization.set_crc32_options(before)


def legacy(folder, model):
    torch.save(model.state_dict(), folder / "step7.pt", _use_new_zipfile_serialization=False)
    return folder / "step7.pt"


def adam(model):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def nested(folder, model):
    state = {"model": model.state_dict(), "optimizer": adam(model).state_dict(), "epoch": 3}
    torch.save(state | {"args": argparse.Namespace(lr=0.1)}, folder / "ckpt_007.pth")
    return folder / "ckpt_007.pth"


def lightning(folder, model):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, width: int, settings: argparse.Namespace):
            super().__init__()
            self.save_hyperparameters()
            self.model = model

        def training_step(self, batch):
            return self.model.embedding(batch).square().sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    data = torch.utils.data.DataLoader(torch.arange(14), batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, **quiet, enable_model_summary=False
    )
    trainer.fit(Module(8, argparse.Namespace(depth=torch.tensor(2))), data)
    trainer.save_checkpoint(folder / "epoch=3-step=7.ckpt")
    return folder / "epoch=3-step=7.ckpt"


def pretrained(folder, model):
    model.save_pretrained(folder / "step7")
    return folder / "step7"


def pretrained_shards(folder, model):
    model.save_pretrained(folder / "step7", max_shard_size="3KB")
    return folder / "step7"


def bins(folder, model):
    from huggingface_hub import save_torch_model

    (folder / "step7").mkdir()
    save_torch_model(model, folder / "step7", safe_serialization=False)
    return folder / "step7"


def bin_shards(folder, model):
    from huggingface_hub import save_torch_model

    (folder / "step7").mkdir()
    save_torch_model(model, folder / "step7", safe_serialization=False, max_shard_size="1KB")
    return folder / "step7"


def trainer(folder, model):
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 14
    arguments = TrainingArguments(
        str(folder / "out"),
        max_steps=7,
        save_steps=7,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    Trainer(model, arguments, train_dataset=data).train()
    return folder / "out" / "checkpoint-7"


def accelerate_state(folder, model, **options):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, _ = accelerator.prepare(model, adam(model))
    accelerator.save_state(str(folder / "step7"), **options)
    accelerator.free_memory()
    return folder / "step7"


def accelerate_state_bin(folder, model):
    return accelerate_state(folder, model, safe_serialization=False)


def accelerate_several(folder, model):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.prepare(nn.Linear(2, 2), model)
    accelerator.save_state(str(folder / "step7"))
    accelerator.free_memory()
    return folder / "step7"


def accelerate_model(folder, model):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.save_model(model, str(folder / "step7"), max_shard_size="1KB")
    accelerator.free_memory()
    return folder / "step7"


def distributed(folder, model):
    import torch.distributed.checkpoint as dcp

    dcp.save(model.state_dict(), checkpoint_id=folder / "step-7", no_dist=True)
    return folder / "step-7"


def distributed_app(folder, model):
    import torch.distributed.checkpoint as dcp

    state = {"model": model.state_dict(), "optim": adam(model).state_dict(), "epoch": 3}
    dcp.save({"app": state}, checkpoint_id=folder / "step-7", no_dist=True)
    return folder / "step-7"


@dataclass(frozen=True)
class Format:
    """A way to write a model to disk.

    Attributes:
        name: Which.
        write: Writes a model and returns what to import.
        says: How the format is called.
        build: Builds the model.
        key: What has to be said, if anything.
        found: Where the weights are.
        prefix: What is in front of all names.
        shards: Whether there are several files of weights.
    """

    name: str
    write: Callable[[Path, nn.Module], Path]
    says: str
    build: Callable[..., nn.Module] = net
    key: str | None = None
    found: str = ""
    prefix: str = ""
    shards: bool = False

    def __str__(self):
        return self.name


FORMATS = [
    Format("safetensors", safetensors, "safetensors"),
    Format("torch.save", plain, "torch.save"),
    Format("legacy torch.save", legacy, "torch.save"),
    Format("torch.save without checksums", without_checksums, "torch.save"),
    Format("training state", nested, "torch.save", found="model"),
    Format("Lightning", lightning, "Lightning checkpoint", found="state_dict", prefix="model."),
    Format("Transformers", pretrained, "safetensors", gpt2),
    Format("Transformers shards", pretrained_shards, "sharded safetensors", gpt2, shards=True),
    Format("bin", bins, "torch.save"),
    Format("bin shards", bin_shards, "sharded torch.save", shards=True),
    Format("Trainer", trainer, "Hugging Face Trainer, safetensors", gpt2),
    Format("Accelerate state", accelerate_state, "Accelerate, safetensors"),
    Format("Accelerate state bin", accelerate_state_bin, "Accelerate, torch.save"),
    Format(
        "Accelerate several",
        accelerate_several,
        "Accelerate, safetensors",
        key="model_1",
        found="model_1",
    ),
    Format("Accelerate model", accelerate_model, "sharded safetensors", shards=True),
    Format("distributed", distributed, "distributed checkpoint"),
    Format("distributed app", distributed_app, "distributed checkpoint", found="app.model"),
]
