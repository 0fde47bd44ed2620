"""What fully describes a run: frozen dataclasses, a stable hash, and nothing that needs torch.

Every field is a setting that a recipe or the command line may replace. ``RunConfig`` contains all
that decides the trained weights and which of them are kept; it does not contain what is measured
(probes) or where it executes (device, threads, folders), so that one run on disk serves every
figure that can be drawn from it.
"""

from layerscope.config.base import from_dict, to_dict
from layerscope.config.data import DATA, DataConfig, Digits, Images, Sine
from layerscope.config.models import (
    FCN,
    MODELS,
    VGG,
    Activation,
    CustomModel,
    Initialisation,
    LastNorm,
    ModelConfig,
    Normalisation,
    ResidualFCN,
    ResNet,
    Stem,
    ViT,
)
from layerscope.config.optimisers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    OptimizerConfig,
    RMSprop,
)
from layerscope.config.run import FreezeWhenSettled, Plateau, RunConfig, Start, Unit

__all__ = [
    "DATA",
    "FCN",
    "MODELS",
    "OPTIMIZERS",
    "SGD",
    "VGG",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "CustomModel",
    "DataConfig",
    "Digits",
    "FreezeWhenSettled",
    "Images",
    "Initialisation",
    "LastNorm",
    "ModelConfig",
    "Normalisation",
    "OptimizerConfig",
    "Plateau",
    "RMSprop",
    "ResNet",
    "ResidualFCN",
    "RunConfig",
    "Sine",
    "Start",
    "Stem",
    "Unit",
    "ViT",
    "from_dict",
    "to_dict",
]
