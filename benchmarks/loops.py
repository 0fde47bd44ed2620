"""Bare training loops on synthetic data: what recording is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from layerscope.models.fcn import fcn

BATCH = 128
FCN_STEPS = 469  # an epoch of 60,000 images
RESNET_STEPS = 391  # an epoch of 50,000 images


class Loop:
    """Cross-entropy, SGD, batches of 128 out of fixed noise, 10 classes."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], batches: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), 0.01)
        self.inputs = torch.randn(batches, BATCH, *shape, generator=generator)
        self.labels = torch.randint(10, (batches, BATCH), generator=generator)
        self.steps = 0

    def step(self) -> Tensor:
        """One optimiser step; its loss."""
        index = self.steps % len(self.inputs)
        self.steps += 1
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(self.inputs[index]), self.labels[index])
        loss.backward()
        self.optimizer.step()
        return loss


def fcn_loop() -> Loop:
    """FCN 3x256 on inputs of 784: 8 tensors, 335,114 parameters."""
    torch.manual_seed(0)
    return Loop(fcn((784,), 10), (784,))


def deep_loop(tensors: int, parameters: int) -> Loop:
    """Square linear layers without biases, ``parameters`` weights in ``tensors`` matrices."""
    torch.manual_seed(0)
    width = round((parameters / tensors) ** 0.5)
    layers = [nn.Linear(width, width, bias=False) for _ in range(tensors)]
    return Loop(nn.Sequential(*layers), (width,), batches=4)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        z = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(z + self.shortcut(x))


def resnet18_loop() -> Loop:
    """ResNet-18 for 3x32x32 at full width: 62 parameter tensors, 11.2M parameters."""
    torch.manual_seed(0)
    sizes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [block for i, o, stride in sizes for block in (Block(i, o, stride), Block(o, o, 1))]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return Loop(nn.Sequential(*stem, *blocks, *head), (3, 32, 32), batches=2)
