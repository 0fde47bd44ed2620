"""The regression of the paper and its residual network, and what the smaller scales reduce.

From Section 3.1 and Appendix A.1: f(x) = sin x + sin(3x)/3 + sin(10x)/10 + sin(30x)/30 on [-2, 2],
5,000 examples for training and as many for testing, mean squared error, SGD without momentum or
weight decay, learning rate 0.1, times 0.1 after epoch 150 of 300, batch 128.

Left open by the paper and read here so: x is drawn uniformly, the same for every seed. The residual
network (1-[128-128-128] x 4-1, ReLU between the two layers of a branch) diverges at this learning
rate with PyTorch's, He's and Glorot's initialisation. Here it has Glorot's with the last layer of
every branch scaled by 1/4, which trains with every seed; LOG.md lists what was tried, and how much
the rates depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from layerscope.config import SGD, OptimizerConfig, ResidualFCN, RunConfig, Sine

if TYPE_CHECKING:
    from layerscope.studies.study import Scale

PAPER = "Which layer is learning faster?"
SEEDS = (0, 1, 2, 3, 4)
BATCH = 128
LENGTHS: Mapping[Scale, tuple[int, int]] = {
    "paper": (300, 5000),
    "small": (300, 2000),
    "smoke": (4, 256),
}
"""Epochs and training examples."""
RESIDUAL = ResidualFCN(initialisation="glorot", branch_scale=0.25)
REDUCED = {
    "paper": "The paper's settings",
    "small": "Reduced: 2,000 training examples instead of 5,000",
    "smoke": "A smoke test of 4 epochs on 256 examples; not an experiment",
}
READING = "initialised after Glorot with branches scaled by 1/4, since it diverges as stated"


def early(scale: Scale) -> int:
    """Epochs of the first interval of which rates are given: 5 as in the paper."""
    return 1 if scale == "smoke" else 5


def sine(
    scale: Scale,
    model: ResidualFCN = RESIDUAL,
    *,
    components: int = 4,
    optimizer: OptimizerConfig | None = None,
) -> RunConfig:
    """The regression with a residual network; early epochs and every tenth one are kept."""
    epochs, n_train = LENGTHS[scale]
    if scale == "smoke":
        model = replace(model, width=16)
    per_epoch = -(-n_train // BATCH)
    first = ", ".join(str(epoch * per_epoch) for epoch in (1, 2, 3, 5))
    return RunConfig(
        model=model,
        data=Sine(components=components, n_train=n_train, n_test=n_train),
        optimizer=optimizer or SGD(learning_rate=0.1),
        milestones=(epochs // 2,),
        epochs=epochs,
        batch_size=BATCH,
        checkpoints=f"at({first}) | epochs({max(1, epochs // 30)})",
    )


def reduced(scale: Scale) -> str:
    """What a scale changes of the paper's settings, for captions."""
    reading = f"; {READING}." if scale != "smoke" else "."
    return REDUCED[scale] + reading


def suffix(scale: Scale) -> str:
    """What titles of figures add below the paper's scale."""
    return "" if scale == "paper" else f" ({scale} scale)"
