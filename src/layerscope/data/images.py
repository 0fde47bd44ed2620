"""Image classification sets: by table name, from a local folder, or from the Hugging Face hub.

The first use decodes every image once to uint8 and keeps the result in the cache; later uses read
that file. Sets with images of varying size, and all sets when ``image_size`` is given, are resized:
shorter side to ``image_size`` (bilinear, antialiased), then the centre square.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from layerscope.config import Images
from layerscope.data.build import Reading
from layerscope.data.cache import Decoded, cached
from layerscope.data.dataset import Dataset, Split
from layerscope.data.locate import Source, locate
from layerscope.data.table import ImageSet
from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import mixed_seed


def images(config: Images, root: Path | None) -> Dataset:
    """An image classification set in memory.

    Args:
        config: Name, subset and size. A name of the table is read with the table's columns, splits
            and statistics; any other set with those found in it (RGB; mean and standard deviation
            of its whole training split). ``classes``, ``limit`` and ``test_limit`` take a random
            subset: the first ones of a permutation drawn from ``subset_seed``, so that a larger
            number contains a smaller one. ``classes`` chooses first, and numbers the chosen
            classes from 0 in the set's own order; examples are as balanced as the draw falls.
        root: Folder of local copies, looked at before the hub.

    Returns:
        uint8 images with their statistics, on the CPU.

    Raises:
        LayerscopeError: Unknown name, no copy and no network, a missing split or column, a label
            outside the classes, an unreadable file, images of different size without
            ``image_size``, more classes or a larger limit than the set has, or more than 8 GB of
            pixels.
    """
    if config.image_size is not None and config.image_size < 1:
        raise LayerscopeError(f"image_size is {config.image_size}.", "It must be at least 1.")
    source = locate(config.name, root)
    reading = Reading(source, _side(config, source.row))
    decoded = cached(reading.cache_file(), reading.build)
    return _dataset(config, source, decoded)


def _side(config: Images, row: ImageSet | None) -> int | None:
    """Side to resize to; None where images keep their native size."""
    if config.image_size is None and row is not None and row.native_size_varies:
        return row.image_size
    return config.image_size


def _dataset(config: Images, source: Source, decoded: Decoded) -> Dataset:
    """The subset that the configuration asks for, with statistics and a note."""
    row = source.row
    mean = torch.tensor(row.mean) if row else decoded.mean.float()
    std = torch.tensor(row.std) if row else decoded.std.float()
    if config.normalise == "global":
        mean, std = _over_channels(mean, std)
    train = Split(decoded.train_images, decoded.train_labels, mean, std)
    test = Split(decoded.test_images, decoded.test_labels, mean, std)
    fidelity = _fidelity(row, len(train), test.targets)
    notes = [*fidelity, *_notes(config, row, decoded.n_classes)]
    names = decoded.class_names
    if config.classes is not None:
        chosen = _chosen_classes(config, config.classes, decoded.n_classes)
        train, test = (_of_classes(split, chosen, config.name) for split in (train, test))
        names = names and tuple(names[label] for label in chosen)
    return Dataset(
        name=config.name,
        train=_subset(train, config.limit, config, "train"),
        test=_subset(test, config.test_limit, config, "test"),
        input_shape=tuple(train.inputs.shape[1:]),
        n_classes=config.classes or decoded.n_classes,
        task="classification",
        class_names=names,
        note="; ".join(notes),
        fidelity="; ".join(fidelity),
    )


def _chosen_classes(config: Images, kept: int, n_classes: int) -> list[int]:
    """The classes that are kept, ascending."""
    if not 2 <= kept <= n_classes:
        raise LayerscopeError(
            f"classes is {kept:,}, but {config.name} has {n_classes:,} classes.",
            f"Choose 2 to {n_classes:,}, or leave classes out.",
        )
    generator = torch.Generator().manual_seed(mixed_seed(config.subset_seed, "classes"))
    order = torch.randperm(n_classes, generator=generator)
    return sorted(order[:kept].tolist())


def _of_classes(split: Split, chosen: list[int], name: str) -> Split:
    """The examples of the chosen classes (ascending), which are numbered from 0."""
    labels = torch.tensor(chosen)
    kept = split.take(torch.isin(split.targets, labels).nonzero().flatten())
    if not len(kept):
        raise LayerscopeError(
            f"a part of {name} has no image of the chosen classes.",
            "Choose more classes, or others with subset_seed.",
        )
    return replace(kept, targets=torch.searchsorted(labels, kept.targets))


def _over_channels(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of all pixels of all channels together, repeated per channel."""
    overall = mean.double().mean()
    variance = (std.double() ** 2 + (mean.double() - overall) ** 2).mean()
    return overall.float().expand_as(mean), variance.sqrt().float().expand_as(std)


def _subset(split: Split, limit: int | None, config: Images, part: str) -> Split:
    """The first ``limit`` examples of a permutation drawn from the seed and the part's name."""
    if limit is None:
        return split
    if not 1 <= limit <= len(split):
        name = "limit" if part == "train" else "test_limit"
        raise LayerscopeError(
            f"{name} is {limit:,}, but the {part} part of {config.name} has {len(split):,} images"
            + (" of the chosen classes." if config.classes else "."),
            f"Choose 1 to {len(split):,}, or leave {name} out.",
        )
    generator = torch.Generator().manual_seed(mixed_seed(config.subset_seed, part))
    return split.take(torch.randperm(len(split), generator=generator)[:limit])


def _fidelity(row: ImageSet | None, n_train: int, test_labels: Tensor) -> list[str]:
    """In what the data differ from the original, from the table and the copy itself."""
    if row is None:
        return []
    notes = [row.note] if row.note else []
    n_test = len(test_labels)
    for part, count, full in (("training", n_train, row.n_train), ("test", n_test, row.n_test)):
        if count != full:
            notes.append(f"this copy has {count:,} of {full:,} {part} images")
    first = test_labels[: len(row.first_labels)].tolist()
    if n_test == row.n_test and first != list(row.first_labels):
        notes.append(
            "this copy has its test images in another order than the original, so that its pixels "
            "or its division into training and test images may differ, too"
        )
    return notes


def _notes(config: Images, row: ImageSet | None, n_classes: int) -> list[str]:
    """What a caption has to say of the configuration."""
    notes: list[str] = []
    side = _side(config, row)
    if side is not None and (row is None or row.native_size_varies or side != row.image_size):
        notes.append(f"resized to {side}x{side}")
    if config.classes is not None:
        notes.append(f"{config.classes} of {n_classes:,} classes (seed {config.subset_seed})")
    for part, limit in (("training", config.limit), ("test", config.test_limit)):
        if limit is not None:
            notes.append(f"subset of {limit:,} {part} images (seed {config.subset_seed})")
    return notes
