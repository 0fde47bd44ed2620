from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.cases import encoded, write_parquet
from tests.reference import data as reference

from layerscope.config import Images
from layerscope.data import load
from layerscope.data.build import Reading, statistics


@pytest.mark.parametrize("modes", [("RGB",), ("L",), ("RGB", "L")])
@pytest.mark.parametrize(
    ("sizes", "side"), [("same", None), ("same", 5), ("mixed", 5), ("mixed", 8), ("mixed", 12)]
)
def test_decoding_equals_the_plain_loop(make_set, sizes, modes, side):
    data = load(Images(str(make_set(sizes=sizes, modes=modes)), image_size=side))
    plain = [reference.decoded(image, "RGB", side) for image in encoded(6, sizes, modes)]
    assert torch.equal(data.train.inputs, torch.stack(plain))
    assert data.train.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.input_shape == (3, side or 8, side or 8)


def test_statistics_of_an_unknown_set_are_those_of_its_training_part(make_set):
    train = load(Images(str(make_set()))).train
    mean, std = reference.statistics(train.inputs)
    torch.testing.assert_close((train.mean.double(), train.std.double()), (mean, std))


def test_statistics_equal_the_plain_formula_across_chunks():
    images = torch.arange(240, dtype=torch.uint8).view(5, 3, 4, 4)
    torch.testing.assert_close(statistics(images, chunk=2), reference.statistics(images))


def test_an_image_folder_is_read(tmp_path, cache):
    for part in ("train", "test"):
        for value, name in ((10, "cat"), (200, "dog")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            Image.new("L", (4, 4), value).save(folder / "0.png")
    pets = load(Images(str(tmp_path / "pets")))
    assert pets.class_names == ("cat", "dog")
    assert pets.train.inputs[:, :, 0, 0].tolist() == [[10] * 3, [200] * 3]
    assert len(pets.test) == 2


def test_a_table_name_uses_the_table(make_set, tmp_path):
    make_set("mnist", modes=("L",), classes=10, train=10, labels=list(range(10)))
    mnist = load(Images("mnist", image_size=8), tmp_path / "root")
    assert mnist.train.inputs.shape == (10, 1, 8, 8)
    assert mnist.train.mean.tolist() == pytest.approx([0.1307])
    assert "10 of 60,000 training images" in mnist.note
    assert "resized to 8x8" in mnist.note


@pytest.mark.parametrize("where", ["tiny_imagenet", "tiny-imagenet", "zh-plus/tiny-imagenet"])
@pytest.mark.parametrize("name", ["tiny_imagenet", "zh-plus/tiny-imagenet"])
def test_copies_are_found_under_the_data_root(make_set, tmp_path, monkeypatch, where, name):
    make_set(where, classes=200, test_name="valid")
    monkeypatch.setenv("LAYERSCOPE_DATA", str(tmp_path / "root"))
    data = load(Images(name, image_size=4))
    assert (len(data.train), len(data.test), data.n_classes) == (6, 3, 200)


def test_a_part_of_a_larger_set_is_selected(make_set, tmp_path):
    domains = ["real", "painting", "painting", "real", "sketch", "painting"]
    make_set("DomainNet", test=6, classes=345, domain=domains)
    data = load(Images("domainnet_painting", image_size=8), tmp_path / "root")
    assert data.train.targets.tolist() == [1, 2, 2]


def test_splits_are_joined(make_set, tmp_path):
    folder = make_set("aircraft", label="variant", classes=100)
    file = folder / "data" / "validation-00000-of-00001.parquet"
    write_parquet(file, encoded(2), [7, 8], label="variant", classes=100)
    data = load(Images("aircraft", image_size=8), tmp_path / "root")
    assert data.train.targets.tolist() == [0, 1, 2, 0, 1, 2, 7, 8]


def test_integer_labels_count_classes_from_the_training_part(make_set):
    assert load(Images(str(make_set(classes=None)))).n_classes == 3


def test_a_subset_is_random_seeded_and_nested(make_set):
    folder = str(make_set(train=30))
    full = load(Images(folder)).train.inputs
    small, large = (load(Images(folder, limit=n)).train.inputs for n in (5, 9))
    assert torch.equal(small, large[:5])
    assert not torch.equal(small, full[:5])
    assert not torch.equal(small, load(Images(folder, limit=5, subset_seed=1)).train.inputs)
    limited = load(Images(folder, limit=5, test_limit=2))
    assert len(limited.test) == 2
    assert limited.note.startswith("subset of 5 training images (seed 0); subset of 2 test images")


def test_classes_are_chosen_by_seed_nested_and_numbered_anew(make_set):
    folder = str(make_set(train=30))
    full = load(Images(folder))
    few, many = (load(Images(folder, classes=n)) for n in (2, 3))
    assert set(few.class_names) < set(many.class_names) == set(full.class_names)
    assert few.n_classes == 2
    for data in (few, many):
        kept = [name in data.class_names for name in np.take(full.class_names, full.train.targets)]
        assert torch.equal(data.train.inputs, full.train.inputs[kept])
        names = np.take(data.class_names, data.train.targets)
        assert list(names) == list(np.take(full.class_names, full.train.targets[kept]))
    others = {load(Images(folder, classes=2, subset_seed=s)).class_names for s in range(5)}
    assert len(others) > 1
    assert "2 of 3 classes (seed 0)" in few.note
    assert len(load(Images(folder, classes=2, limit=3)).train) == 3


def test_the_second_load_reads_the_cache(make_set, cache, monkeypatch):
    first = load(Images(folder := str(make_set())))
    monkeypatch.setattr(Reading, "build", lambda self: pytest.fail("decoded twice"))
    second = load(Images(folder))
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert (second.n_classes, second.class_names) == (3, ("c0", "c1", "c2"))
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_a_changed_copy_is_decoded_again(make_set):
    before = load(Images(folder := str(make_set())))
    make_set(train=9)
    assert (len(before.train), len(load(Images(folder)).train)) == (6, 9)


def test_a_broken_cache_file_is_rebuilt_with_a_warning(make_set, cache):
    load(Images(folder := str(make_set())))
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=f"broken cache file .*{file.name}"):
        assert len(load(Images(folder)).train) == 6
    assert len(load(Images(folder)).train) == 6


def test_only_the_cache_folder_is_written(make_set, cache, tmp_path):
    folder = make_set()
    before = sorted(folder.rglob("*"))
    load(Images(str(folder)))
    assert sorted(folder.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "root"]
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".lock"}
