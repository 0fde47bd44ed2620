"""A Transformers ``Trainer``, in bf16, two batches for a step."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from layerscope import GradientMagnitude, Task, WeightChange
from layerscope.integrations.transformers import LayerscopeCallback

torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=16, vocab_size=64))
tokens = torch.randint(64, (48, 16))
data = [{"input_ids": row, "labels": row} for row in tokens]
arguments = TrainingArguments(
    "output", gradient_accumulation_steps=2, bf16=True, num_train_epochs=2, use_cpu=True,
    save_strategy="no", report_to=[], disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=data)
probes = [WeightChange(), GradientMagnitude()]
trainer.add_callback(LayerscopeCallback("runs/gpt", task=Task.language_model(), probes=probes))
trainer.train()
