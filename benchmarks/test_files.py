"""What result files and checksums cost: a result of a probe, and a checkpoint of 48 MB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

from layerscope.runs.checkpoints import Tensors, write_tensors
from layerscope.runs.results import read_dataset, write_dataset

RUNS = {"run": "a", "key": "weight_change"}


@pytest.fixture
def result():
    """A result of 8 moments and 20 layers, with the coordinates that all have."""
    names = [f"encoder.{i}.attention" for i in range(20)]
    values = np.random.default_rng(0).random((8, 20))
    words = {name: ("layer", [name] * 20) for name in ("kind", "group", "missing")}
    return xr.Dataset(
        {"change": (("step", "layer"), values), "distance": (("step", "layer"), values)},
        coords={"step": range(8), "layer": names, "depth": ("layer", range(20)), **words},
    )


@pytest.mark.benchmark(group="a result, 8 moments, 20 layers")
def test_write_result(benchmark, result, tmp_path):
    benchmark(write_dataset, tmp_path / "a.nc", result, RUNS)


@pytest.mark.benchmark(group="a result, 8 moments, 20 layers")
def test_read_result(benchmark, result, tmp_path):
    write_dataset(tmp_path / "a.nc", result, RUNS)
    benchmark(read_dataset, tmp_path / "a.nc")


@pytest.mark.benchmark(group="a checkpoint, 12 tensors, 48 MB: write")
@pytest.mark.parametrize("way", ["layerscope", "safetensors alone"])
def test_write_checkpoint(benchmark, tmp_path, way):
    tensors = {f"{i}.weight": torch.randn(1024, 1024) for i in range(12)}
    path = tmp_path / "a.safetensors"
    benchmark(
        *((write_tensors, path, tensors) if way == "layerscope" else (save_file, tensors, path))
    )


@pytest.mark.benchmark(group="a checkpoint, 12 tensors, 48 MB: read and sum")
@pytest.mark.parametrize("way", ["layerscope", "safetensors alone"])
def test_read_checkpoint(benchmark, tmp_path, way):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {f"{i}.weight": torch.randn(1024, 1024) for i in range(12)})
    read = Tensors if way == "layerscope" else load_file
    benchmark(lambda: [tensor.sum() for tensor in read(path).values()])
