from __future__ import annotations

import io
import time
from unittest.mock import MagicMock

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from PIL import Image
from tests.data.cases import encoded, write_parquet

from layerscope.config import Images
from layerscope.data import build, load
from layerscope.errors import LayerscopeError


def deep_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def fails(message: str, config: Images, root=None) -> None:
    with pytest.raises(LayerscopeError, match=message):
        load(config, root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnsit", "unknown data set 'mnsit'.\n  Did you mean 'mnist'?"),
        ("sines", "Did you mean 'sine'"),
        ("./nowhere", "data folder ./nowhere does not exist"),
        ("/no/where/at/all", "data folder /no/where/at/all does not exist"),
        ("a/b/c", "data folder a/b/c does not exist"),
    ],
)
def test_unknown_names(name, message, cache):
    fails(message, Images(name))


def test_a_data_root_must_exist(tmp_path, cache):
    fails("data root .*gone does not exist", Images("mnist"), tmp_path / "gone")


@pytest.mark.parametrize(
    ("made", "config", "message"),
    [
        ({"test": 0}, {}, "has no split test or validation; it has train"),
        ({"sizes": "mixed"}, {}, "image 1 of split train .* has 8x8 pixels .* the first one 9x7"),
        ({"label": "kind", "classes": None}, {}, "has 0 class columns.*image .Image., kind .Value"),
        ({"classes": None, "labels": [0, 1, 2, 0, 1, -1]}, {}, "image 5 of .* has label -1"),
        (
            {"classes": None, "labels": [0, 1, 0, 1, 0, 1]},
            {},
            "image 2 of .* label 2, outside 0 to",
        ),
        ({"classes": None, "labels": [0, 1, None, 1, 0, 1]}, {}, "image 2 of .* has label None"),
        ({}, {"limit": 7}, "limit is 7, but the train part of .* has 6 images"),
        ({}, {"limit": 0}, "limit is 0"),
        ({}, {"classes": 4}, "classes is 4, but .* has 3 classes"),
        ({}, {"classes": 1}, "classes is 1"),
        ({}, {"test_limit": 4}, "test_limit is 4, but the test part of .* has 3 images"),
        ({}, {"image_size": 0}, "image_size is 0"),
    ],
)
def test_errors_of_a_folder(make_set, made, config, message):
    fails(message, Images(str(make_set(**made)), **config))


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("mnist", {"image": "img", "classes": 10}, "no image column 'image'; its columns are img"),
        ("mnist", {"label": "y", "classes": 10}, "no class column 'label'"),
        ("mnist", {"classes": 3}, "names 3 classes, mnist has 10"),
        ("mnist", {"classes": 10}, "training images are .1, 8, 8.*mnist is 28x28"),
        ("mnist", {"classes": None, "labels": [0, 1, 10, 3, 4, 5]}, "label 10, outside 0 to 9"),
        ("mnist", {"classes": 10, "test": 0}, "has no split test; it has train"),
        ("domainnet_painting", {"classes": 345}, "no column 'domain' in which 'painting'"),
    ],
)
def test_errors_of_a_table_name(make_set, tmp_path, name, made, message):
    make_set(name, **made)
    fails(message, Images(name), tmp_path / "root")


def test_two_class_columns_are_ambiguous(tmp_path, cache):
    import datasets

    kind = datasets.ClassLabel(names=["a"])
    table = datasets.Dataset.from_dict({"coarse": [0], "fine": [0]})
    table = table.cast(datasets.Features({"coarse": kind, "fine": kind}))
    table = table.add_column("image", [{"bytes": encoded(1)[0], "path": None}])
    table = table.cast_column("image", datasets.Image())
    (tmp_path / "two").mkdir()
    for part in ("train", "test"):
        table.to_parquet(tmp_path / "two" / f"{part}.parquet")
    fails("has 2 class columns; its columns are coarse .*fine", Images(str(tmp_path / "two")))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "image 1 of split train .* cannot be decoded: cannot identify"),
        (encoded(1)[0][:60], "image 1 of split train .* cannot be decoded"),
        (deep_png(), "image 1 of split train .* more than 8 bits"),
        (None, "image 1 of split train .* cannot be decoded"),
    ],
)
def test_broken_images(make_set, image, message):
    folder = make_set()
    images = encoded(3)
    images[1] = image
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", images, [0, 1, 2])
    fails(message, Images(str(folder)))


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("length", [0, 100, -20])
def test_broken_parquet(make_set, part, length):
    file = make_set() / "data" / f"{part}-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:length])
    fails(f"{part}.* cannot be read|does not hold", Images(str(file.parents[1])))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (None, b"", "does not hold a data set"),
        ("train.json", b'{"label": 1}', "holds neither parquet files nor folders of images"),
    ],
)
def test_folders_without_images(tmp_path, cache, file, content, message):
    folder = tmp_path / "other"
    folder.mkdir()
    if file:
        (folder / file).write_bytes(content)
    fails(message, Images(str(folder)))


def test_parts_of_different_size(make_set):
    folder = make_set(test=0)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", encoded(1, "mixed"), [0])
    fails("training images are .3, 8, 8., test images .3, 7, 9.", Images(str(folder)))


def test_too_large_sets_are_refused_before_they_are_decoded(make_set, monkeypatch):
    folder = str(make_set())
    monkeypatch.setattr(build, "MAX_BYTES", 9 * 3 * 8 * 8 - 1)
    monkeypatch.setattr(build, "decode_all", lambda *_: pytest.fail("decoded"))
    fails("9 images; at 8x8 pixels .*\n.*image_size, or give the path", Images(folder))


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("cannot find the snapshot"),
        OfflineModeIsEnabled("offline"),
        ConnectionError("refused"),
        type("ReadTimeout", (Exception,), {"__module__": "httpx"})("slow"),
    ],
)
def test_without_network_both_ways_out_are_named(tmp_path, cache, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    start = time.monotonic()
    message = f"Put a copy in hub layout at {tmp_path}/cifar10 .*--data-root.*HF_HUB_OFFLINE"
    fails(message, Images("cifar10"), tmp_path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepositoryNotFoundError, "the Hugging Face hub has no data set someone/birds"),
        (GatedRepoError, "someone/birds needs its terms accepted"),
    ],
)
def test_sets_that_the_hub_refuses(cache, monkeypatch, error, message):
    def download(*_, **__):
        raise error("no", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fails(message, Images("someone/birds"))


def test_the_cache_must_be_writable(make_set, tmp_path, monkeypatch):
    folder = make_set()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAYERSCOPE_CACHE", str(tmp_path / "file"))
    fails("cache folder .*file/data cannot be made.*\n.*LAYERSCOPE_CACHE", Images(str(folder)))


def test_a_download_is_used_again_without_asking_the_hub(make_set, monkeypatch):
    folder = make_set()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    first = load(Images("someone/birds"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    assert len(load(Images("someone/birds")).train) == len(first.train) == 6
