"""The sets as they are; decoded once into the user's own cache, so that later runs are quick."""

from __future__ import annotations

import io

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tests.reference.data import decoded

from layerscope.config import Images
from layerscope.data import IMAGE_SETS, load
from layerscope.data.build import statistics

pytestmark = pytest.mark.data

# name, training images, test images, tolerance of mean and std against the table's. MNIST and
# Fashion-MNIST are exact up to the table's four digits; copies of CIFAR-10 may be JPEG, which
# lowers the standard deviation; copies of Tiny ImageNet may hold a part of the training images.
CASES = [
    ("mnist", (1, 28, 28), 60_000, 10_000, 1e-4),
    pytest.param("fashion_mnist", (1, 28, 28), 60_000, 10_000, 1e-4, marks=pytest.mark.slow),
    ("cifar10", (3, 32, 32), 50_000, 10_000, 3e-3),
    pytest.param("tiny_imagenet", (3, 64, 64), 30_000, 10_000, 1e-3, marks=pytest.mark.slow),
]


def load_or_skip(name, root):
    if not (root / name).is_dir():
        pytest.skip(f"no copy of {name} under {root}")
    return load(Images(name), root)


@pytest.mark.parametrize(("name", "shape", "n_train", "n_test", "tolerance"), CASES)
def test_shapes_classes_and_statistics(data_root, name, shape, n_train, n_test, tolerance):
    data = load_or_skip(name, data_root)
    row = IMAGE_SETS[name]
    assert (data.input_shape, data.n_classes) == (shape, row.classes)
    assert (len(data.train), len(data.test)) == (n_train, n_test)
    assert ("of 100,000 training images" in data.note) == (name == "tiny_imagenet")
    shuffled = data.test.targets[: len(row.first_labels)].tolist() != list(row.first_labels)
    assert ("in another order than the original" in data.fidelity) == shuffled
    if name.endswith("mnist"):  # digit 7 and an ankle boot come first, wherever they are published
        assert data.fidelity == ""
    assert data.note.startswith(data.fidelity)
    for part in (data.train, data.test):
        assert torch.bincount(part.targets).shape == (row.classes,)
    table = torch.tensor([row.mean, row.std], dtype=torch.float64)
    measured = torch.stack(statistics(data.train.inputs))
    torch.testing.assert_close(measured, table, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "file"), [
    ("mnist", "mnist/mnist/test-00000-of-00001.parquet"),
    ("cifar10", "cifar10/plain_text/test-00000-of-00001.parquet"),
    ("tiny_imagenet", "tiny_imagenet/data/valid-00000-of-00001.parquet"),
])  # fmt: skip
def test_pixels_equal_the_plain_loop(data_root, name, file):
    data, row = load_or_skip(name, data_root), IMAGE_SETS[name]
    table = pyarrow.parquet.read_table(data_root / file)
    grey = 0
    for index in range(0, 10_000, 97):
        stored = table[row.image_column][index].as_py()["bytes"]
        grey += Image.open(io.BytesIO(stored)).mode == "L"
        mode = "L" if row.channels == 1 else "RGB"
        assert torch.equal(data.test.inputs[index], decoded(stored, mode, None))
        assert data.test.targets[index] == table[row.label_column][index].as_py()
    assert (grey > 0) == (name != "cifar10")
