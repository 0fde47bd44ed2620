"""Any loop: one line before it, and the optimiser counts the steps."""

import torch

from layerscope import Recorder, WeightChange

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
optimizer = torch.optim.AdamW(model.parameters())
recorder = Recorder(model, "runs/plain", optimizer=optimizer, probes=[WeightChange()])

for _ in range(20):
    inputs, labels = torch.randn(32, 20), torch.randint(3, (32,))
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

recorder.close()
print(recorder.run.results("weight_change")["change"].to_pandas())
