"""A new probe, model family or kind of data is one file in the package, named nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import layerscope

PROBE = '''
"""How large the weights of each layer are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from layerscope.figures.figure import Lines
from layerscope.functional.norms import layer_norms
from layerscope.probes.base import MomentProbe, Variable, over_time


@dataclass(frozen=True)
class WeightSize(MomentProbe):
    """L2 norm of each layer's weights.

    Attributes:
        factor: Multiplies it.
    """

    factor: float = 1.0

    source: ClassVar[str] = "made up"
    summary: ClassVar[str] = "how large the weights are"
    heading: ClassVar[str] = "The size of each layer"
    place: ClassVar[int] = 25

    @property
    def variables(self):
        return {"size": Variable("L2 norm", "weight")}

    def select(self, layers):
        return layers

    def measure(self, moment, layers):
        values = layers.values(moment.weights)
        return {"size": self.factor * layer_norms(values, layers.owner, len(layers))}

    def figures(self, dataset):
        values, x = over_time(dataset["size"])
        return [Lines(values, key=self.slug, title="Size", caption="L2 norm.", x=x)]
'''
MODEL = '''
"""A network of two layers."""

from dataclasses import dataclass

from torch import nn

from layerscope.config import ModelConfig


@dataclass(frozen=True)
class TwoLayers(ModelConfig, name="two_layers", builder="layerscope.models.two:two_layers"):
    """Two linear layers, the first with its activation.

    Attributes:
        width: Units between them.
    """

    width: int = 16

    @property
    def unit(self):
        """The two layers."""
        return ("front", "back")


def two_layers(input_shape, outputs, width):
    """Build it."""
    front = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU())
    model = nn.Sequential()
    model.add_module("front", front)
    model.add_module("back", nn.Linear(width, outputs))
    import torch

    model(torch.zeros(1, *input_shape))
    return model
'''
DATA = '''
"""Parity of bits."""

from dataclasses import dataclass

import torch

from layerscope.config import DataConfig
from layerscope.data.dataset import Dataset, Split


@dataclass(frozen=True)
class Parity(DataConfig, name="parity", builder="layerscope.data.parity:parity"):
    """Whether the number of ones among some bits is odd.

    Attributes:
        bits: How many.
    """

    bits: int = 6


def parity(config, root):
    """All of them, to train and to test on."""
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * config.bits)
    split = Split(x, x.sum(1).long() % 2)
    return Dataset("parity", split, split, (config.bits,), 2, "classification")
'''
WORDS = """
import sys
from layerscope.cli import main
def do(*words):
    assert main(list(words)) == 0, words
do("list")
assert "torch" not in sys.modules
train = ["train", "--model", "two_layers", "--data", "parity", "--epochs", "1"]
do(*train, "--model.width", "4", "--data.bits", "5", "--probes", "weight_size", "--out", "run")
do("measure", "weight_size", "run", "--factor", "2")
do("report", "run")
do("train", "--model", "two_layers", "--data", "parity", "--data.bits", "5", "--model.width", "4",
   "--epochs", "1", "--probes", "weight_size", "--out", "run")
"""
READ = """
from layerscope.config import from_dict, to_dict, RunConfig
import sys, json
from layerscope.runs.store import Run
run = Run.open("run")
assert run.config.model.width == 4 and run.config.data.bits == 5
assert from_dict(json.loads(json.dumps(to_dict(run.config)))) == run.config
assert run.layers.names == ("front", "back")
from layerscope.probes import WeightSize
assert {"weight_size", "weight_size,factor=2.0@checkpoints"} <= set(run.result_keys)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with three files more; runs Python with it."""
    folder = tmp_path_factory.mktemp("package")
    source = Path(layerscope.__file__).parent
    shutil.copytree(source, folder / "layerscope", ignore=shutil.ignore_patterns("__pycache__"))
    files = {"probes/size.py": PROBE, "models/two.py": MODEL, "data/parity.py": DATA}
    for name, text in files.items():
        (folder / "layerscope" / name).write_text(text)

    def python(code):
        environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
        words = [sys.executable, "-c", code]
        found = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    return folder, python


@pytest.mark.slow
def test_files_dropped_in_are_listed_trained_measured_and_reported(package):
    folder, python = package
    printed = python(WORDS)
    assert "how large the weights are" in printed
    assert "Two linear layers, the first with its activation." in printed
    assert "Whether the number of ones among some bits is odd." in printed
    page = (folder / "run" / "report.html").read_text("utf-8")
    titles = ["How much each layer changes", "The size of each layer", "When each layer arrives"]
    places = [page.index(f">{title}<") for title in titles]
    assert places == sorted(places)
    python(READ)
