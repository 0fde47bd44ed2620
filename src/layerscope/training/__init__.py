"""Train one model from its configuration: one loop on Lightning Fabric, optimisers, data."""

from layerscope.training.loop import train, train_or_wait

__all__ = ["train", "train_or_wait"]
