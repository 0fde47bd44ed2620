"""FSDP2: torchrun --nproc-per-node 2 examples/fsdp2.py."""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from layerscope import Recorder, WeightChange

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
recorder = Recorder(model, "runs/fsdp2", optimizer=optimizer, probes=[WeightChange()])

torch.manual_seed(1 + dist.get_rank())
for _ in range(20):
    inputs, labels = torch.randn(16, 20), torch.randint(3, (16,))
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

recorder.close()
own = {name: parameter.to_local() for name, parameter in model.named_parameters()}
torch.save(own, f"fsdp2-{dist.get_rank()}.pt")
dist.destroy_process_group()
