"""A loop of one's own under Accelerate, two batches for a step."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from layerscope import Recorder, WeightChange

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
data = TensorDataset(torch.randn(128, 20), torch.randint(3, (128,)))
model, optimizer, loader = accelerator.prepare(
    model, torch.optim.AdamW(model.parameters()), DataLoader(data, 16, shuffle=True)
)
recorder = Recorder(model, "runs/accelerate", optimizer=optimizer, probes=[WeightChange()])

for _ in range(2):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

recorder.close()
