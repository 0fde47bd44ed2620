"""The image sets known by name: where each lives on the Hugging Face hub and what it holds.

Nothing here needs torch, so that the command line can list the table at once. Sizes are those of
the full set on the hub; a local copy may hold fewer images, which ``Dataset.note`` then says.

Means and standard deviations are per channel on the scale 0..1. For sets of one native size they
are those of the full training split; sets whose photographs vary in size, and are resized, use
ImageNet's, as is usual for them (and right for weights pre-trained there).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSet:
    """One row of the table.

    Attributes:
        name: What the user writes.
        hub: ``owner/name`` on the Hugging Face hub.
        image_column: Column that holds the images.
        label_column: Column that holds the classes.
        train_split: Split trained on; ``"a+b"`` joins two.
        test_split: Split tested on.
        classes: Number of classes.
        channels: 1 for grey, 3 for RGB; images are converted to it.
        mean: Mean per channel, scale 0..1.
        std: Standard deviation per channel, scale 0..1.
        image_size: Side of the square images in pixels: the native one, or the one they are resized
            to where ``native_size_varies``.
        n_train: Training images of the full set.
        n_test: Test images of the full set.
        native_size_varies: Whether the images must be resized to share one size.
        where: ``(column, value)`` that rows must have, for a set that is part of a larger one.
        note: What a caption has to say about fidelity, or ``""``.
        first_labels: Classes of the first ten test images of the original, by which a copy in
            another order is known; none where that is not checked.
    """

    name: str
    hub: str
    image_column: str
    label_column: str
    train_split: str
    test_split: str
    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    n_train: int
    n_test: int
    native_size_varies: bool = False
    where: tuple[str, str] | None = None
    note: str = ""
    first_labels: tuple[int, ...] = ()


def _photographs(
    name: str,
    hub: str,
    classes: int,
    n_train: int,
    n_test: int,
    *,
    label_column: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    where: tuple[str, str] | None = None,
    note: str = "",
) -> ImageSet:
    """A row for RGB photographs of varying size, resized to 224 pixels."""
    return ImageSet(
        name=name,
        hub=hub,
        image_column="image",
        label_column=label_column,
        train_split=train_split,
        test_split=test_split,
        classes=classes,
        channels=3,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        image_size=224,
        n_train=n_train,
        n_test=n_test,
        native_size_varies=True,
        where=where,
        note=note,
    )


_ROWS = (
    ImageSet(
        name="mnist",
        hub="ylecun/mnist",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=10,
        channels=1,
        mean=(0.1307,),
        std=(0.3081,),
        image_size=28,
        n_train=60_000,
        n_test=10_000,
        first_labels=(7, 2, 1, 0, 4, 1, 4, 9, 5, 9),
    ),
    ImageSet(
        name="fashion_mnist",
        hub="zalando-datasets/fashion_mnist",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=10,
        channels=1,
        mean=(0.2860,),
        std=(0.3530,),
        image_size=28,
        n_train=60_000,
        n_test=10_000,
        first_labels=(9, 2, 1, 1, 6, 1, 4, 6, 5, 7),
    ),
    ImageSet(
        name="cifar10",
        hub="uoft-cs/cifar10",
        image_column="img",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=10,
        channels=3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        image_size=32,
        n_train=50_000,
        n_test=10_000,
        first_labels=(3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
    ),
    ImageSet(
        name="cifar100",
        hub="uoft-cs/cifar100",
        image_column="img",
        label_column="fine_label",
        train_split="train",
        test_split="test",
        classes=100,
        channels=3,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        image_size=32,
        n_train=50_000,
        n_test=10_000,
        first_labels=(49, 33, 72, 51, 71, 92, 15, 14, 23, 0),
    ),
    ImageSet(
        name="tiny_imagenet",
        hub="zh-plus/tiny-imagenet",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="valid",
        classes=200,
        channels=3,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        image_size=64,
        n_train=100_000,
        n_test=10_000,
        note="tested on the validation split, as the test labels are not public",
    ),
    _photographs(
        "imagenet",
        "ILSVRC/imagenet-1k",
        1000,
        1_281_167,
        50_000,
        test_split="validation",
        note="tested on the validation split, as the test labels are not public",
    ),
    _photographs("flowers102", "dpdl-benchmark/oxford_flowers102", 102, 1_020, 6_149),
    _photographs("caltech101", "dpdl-benchmark/caltech101", 102, 3_059, 6_085),
    _photographs("cub200", "bentrevett/caltech-ucsd-birds-200-2011", 200, 5_994, 5_794),
    _photographs(
        "aircraft",
        "HuggingFaceM4/FGVC-Aircraft",
        100,
        6_667,
        3_333,
        label_column="variant",
        train_split="train+validation",
        note="trained on the training and validation splits together",
    ),
    _photographs(
        "domainnet_painting",
        "wltjr1007/DomainNet",
        345,
        50_416,
        21_850,
        where=("domain", "painting"),
    ),
)

IMAGE_SETS: Mapping[str, ImageSet] = {row.name: row for row in _ROWS}
"""Every image set known by name."""


def row_of(name: str) -> ImageSet | None:
    """The row called ``name``, by its own name or its hub name; None when there is none."""
    by_hub = {row.hub: row for row in _ROWS}
    return IMAGE_SETS.get(name) or by_hub.get(name)
