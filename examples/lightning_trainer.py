"""A Lightning ``Trainer``."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from layerscope import GradientMagnitude, Task, WeightChange
from layerscope.integrations.lightning import LayerscopeCallback


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)
        )

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


torch.manual_seed(0)
model = Classifier()
data = TensorDataset(torch.randn(128, 20), torch.randint(3, (128,)))
trainer = pl.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
probes = [WeightChange(), GradientMagnitude()]
trainer.callbacks.append(
    LayerscopeCallback("runs/lightning", task=Task.classification(), probes=probes)
)
trainer.fit(model, DataLoader(data, 32, shuffle=True))
