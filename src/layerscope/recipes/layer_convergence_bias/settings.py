"""The regression of the paper and its networks, and what the smaller scales reduce.

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

from layerscope.config import FCN, SGD, OptimizerConfig, ResidualFCN, RunConfig, Sine
from layerscope.probes import Probe
from layerscope.studies.paper import Paper
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.quantity import Quantity

paper = Paper("layer_convergence_bias", "Which layer is learning faster?")
SEEDS = (0, 1, 2, 3, 4)
BATCH = 128
EPOCHS, EXAMPLES = 300, 5000
LENGTHS: Mapping[Scale, tuple[int, int]] = {
    "paper": (EPOCHS, EXAMPLES),
    "small": (EPOCHS, 2000),
    "smoke": (4, 256),
}
"""Epochs and training examples."""
RESIDUAL = ResidualFCN(initialisation="glorot", branch_scale=0.25)
READING = "; initialised after Glorot with branches scaled by 1/4, since it diverges as stated"


def timed(config: RunConfig) -> RunConfig:
    """With the learning rate falling half-way; early epochs and every thirtieth of it are kept."""
    epochs = config.epochs
    kept = config.checkpoints
    if isinstance(config.model, ResidualFCN) and isinstance(config.data, Sine):
        per_epoch = -(-config.data.n_train // config.batch_size)
        first = ", ".join(str(epoch * per_epoch) for epoch in (1, 2, 3, 5))
        kept = f"at({first}) | epochs({max(1, epochs // 30)})"
    return replace(config, milestones=(max(1, epochs // 2),), checkpoints=kept)


def sine(
    scale: Scale,
    model: ResidualFCN | FCN = RESIDUAL,
    optimizer: OptimizerConfig | None = None,
    **data: float,
) -> RunConfig:
    """The regression with a network; settings of the data, e.g. ``components``, may be given."""
    epochs, n = LENGTHS[scale]
    if scale == "smoke" and isinstance(model, ResidualFCN):
        model = replace(model, width=16)
    return timed(
        RunConfig(
            model=model,
            data=replace(Sine(n_train=n, n_test=n), **data),
            optimizer=optimizer or SGD(learning_rate=0.1),
            epochs=epochs,
            batch_size=BATCH,
        )
    )


def plan(
    variants: Mapping[str, tuple[str, RunConfig]],
    reading: str = READING,
    more: str = "",
    may_diverge: bool = True,
) -> Plan:
    """Runs on the regression: label and configuration of every variant, and words for captions."""
    words = lambda runs: reduced(runs, reading) + more  # noqa: E731
    return Plan(variants, SEEDS, words, timed, may_diverge)


def reduced(runs: Runs, reading: str = "") -> str:
    """What a scale changes of the paper's settings, for captions."""
    config = runs.first.config
    assert isinstance(config.data, Sine)
    n = config.data.n_train
    if runs.scale == "smoke":
        return f"A smoke test of {config.epochs} epochs on {n} examples; not an experiment."
    changed = [f"{n:,} training examples instead of {EXAMPLES:,}"] if n != EXAMPLES else []
    if config.epochs != EPOCHS:
        changed.append(f"{config.epochs} epochs instead of {EPOCHS}")
    what = f"Reduced: {', '.join(changed)}" if changed else "The paper's settings"
    return f"{what}{reading}."


def early(run: Variant) -> int:
    """End of the first interval of which rates are given: epoch 5, within a quarter of the run."""
    return run.until(min(5, max(1, run.epochs // 4)))


def later(run: Variant) -> int:
    """End of the second one: epoch 50, within half of the run."""
    return run.until(min(50, max(1, run.epochs // 2)))


def names(run: Variant) -> dict[str, str]:
    """The paper's names of a network's layers, without the output."""
    model = run.config.model
    if isinstance(model, ResidualFCN):
        blocks = {f"blocks.{i}": f"Res-Block {i + 1}" for i in range(model.blocks)}
        return {"input": "Layer 1", **blocks}
    assert isinstance(model, FCN)
    hidden = {f"layer{i + 1}": f"Hidden layer {i}" for i in range(1, model.depth)}
    return {"layer1": "Layer 1", **hidden}


def titled(run: Variant, probe: Probe, variable: str) -> Quantity:
    """A variable for all layers but the output, under the paper's names."""
    return run.of(probe, variable).named(names(run))


def inner_layers(run: Variant) -> list[str]:
    """The residual blocks; of a network without any, its hidden layers."""
    return [name for name in names(run) if name != "input"]
