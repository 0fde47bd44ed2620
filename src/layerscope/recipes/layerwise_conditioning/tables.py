"""Test errors of very deep networks beside those of the paper: Tables 1, 2 and A2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from layerscope.recipes.layerwise_conditioning.deep import (
    DEPTHS,
    NETWORKS,
    Data,
    Network,
    depths,
    planned,
    test_error,
)
from layerscope.recipes.layerwise_conditioning.settings import paper
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, beside_reported

REPORTED: Mapping[Data, Mapping[str, tuple[float, ...]]] = {
    "cifar10": {
        "ResNet": (7.52, 6.89, 7.35, 9.42),
        "PreResNet": (6.89, 6.25, 6.12, 6.07),
        "PreResNetv1": (6.75, 6.37, 6.32, 7.89),
        "ResNetLastBN": (6.50, 6.10, 5.94, 5.68),
    },
    "cifar100": {
        "ResNet": (29.60, 28.3, 29.25, 30.49),
        "PreResNet": (29.29, 27.58, 26.72, 26.23),
        "PreResNetv1": (29.60, 28.54, 27.92, 30.07),
        "ResNetLastBN": (28.82, 27.05, 25.80, 25.51),
    },
}
"""Tables 1 and 2: test errors in % at `DEPTHS` of the paper."""
WITHOUT = (20, 44, 56, 110)
REPORTED_WITHOUT: Mapping[str, tuple[float, ...]] = {
    "VGG": (14.88, 33.90, 89.93, 90.0),
    "VGGLastBN": (12.89, 18.40, 23.40, 73.99),
    "ResNet": (11.21, 9.90, 9.48, 8.93),
    "ResNetLastBN": (10.31, 8.99, 8.61, 8.37),
}
"""Table A2: the same without batch normalisation but for the last one, at `WITHOUT`."""
TABLE: tuple[Network, ...] = ("resnet", "preresnet", "preresnet_v1", "last_bn")


@paper.recipe(
    "Table 1",
    planned(TABLE),
    "Do deeper residual networks test better once their last layer is normalised?",
    "Test errors of four kinds of deep networks on CIFAR-10.",
)
def table1(runs: Runs) -> Items:
    """Test errors on CIFAR-10 by kind and depth."""
    yield from errors(runs, "cifar10", "Table 1")


@paper.recipe(
    "Table 2",
    planned(TABLE, "cifar100"),
    "And with a hundred classes?",
    "Test errors of four kinds of deep networks on CIFAR-100.",
)
def table2(runs: Runs) -> Items:
    """Test errors on CIFAR-100 by kind and depth."""
    yield from errors(runs, "cifar100", "Table 2")


def _without(scale: Scale) -> tuple[int, ...]:
    return WITHOUT if scale == "paper" else DEPTHS[scale]


@paper.recipe(
    "Table A2",
    planned(
        ("vgg", "vgg_last_bn", "resnet", "last_bn"),
        only=_without,
        rate=0.01,
        decay=0.0,
        normalisation="none",
    ),
    "Does one normalisation, before the last linear layer, help networks that have no other?",
    "Test errors of networks without batch normalisation, with and without one at the end.",
)
def tableA2(runs: Runs) -> Items:  # noqa: N802
    """Networks without batch normalisation, with and without one before the last linear layer."""
    pairs: tuple[tuple[Network, Network], ...] = (("vgg", "vgg_last_bn"), ("resnet", "last_bn"))
    for plain, normal in pairs:
        a, b = depths(runs, plain), depths(runs, normal)
        yield claim(
            f"{plain}-better",
            f"{NETWORKS[normal][0]} has a lower test error than {NETWORKS[plain][0]} at every "
            "depth. [Table A2, Appendix D.2]",
            in_each(
                {f"depth {d}": test_error(a[d]) - test_error(b[d]) for d in a},
                "{}: test error in points, without less with the last normalisation",
            ),
        )
    yield beside(runs, REPORTED_WITHOUT, WITHOUT, "Table A2")


def errors(runs: Runs, data: Data, place: str) -> Iterator[Statement | Plot]:
    """Claims and table of Tables 1 and 2."""
    by = {network: depths(runs, network) for network in TABLE}
    gains = {d: test_error(by["resnet"][d]) - test_error(by["last_bn"][d]) for d in by["resnet"]}
    shallow, *_, deep = gains
    yield claim(
        "last-bn-better",
        f"ResNetLastBN has a lower test error than ResNet at every depth. [{place}, Section 5.1]",
        in_each(
            {f"depth {d}": gain for d, gain in gains.items()},
            "{}: test error in points, ResNet less ResNetLastBN",
        ),
    )
    yield claim(
        "gain-grows",
        f"The gain is larger for the deepest network than for the shallowest. [{place}, "
        "Section 5.1]",
        gains[deep] - gains[shallow],
        "gain in points, deepest less shallowest",
    )
    yield claim(
        "last-bn-deeper-better",
        f"The deepest ResNetLastBN has a lower test error than the shallowest. [{place}, "
        "Section 5.1]",
        test_error(by["last_bn"][shallow]) - test_error(by["last_bn"][deep]),
        "test error in points, shallowest less deepest",
    )
    yield claim(
        "v1-worse",
        f"At the greatest depth PreResNetv1 has a higher test error than PreResNet. [{place}, "
        "Section 5.2]",
        test_error(by["preresnet_v1"][deep]) - test_error(by["preresnet"][deep]),
        "test error in points, PreResNetv1 less PreResNet",
    )
    yield claim(
        "last-bn-beats-pre",
        f"ResNetLastBN has a lower test error than PreResNet at every depth. [{place}, "
        "Section 5.2]",
        in_each(
            {
                f"depth {d}": test_error(by["preresnet"][d]) - test_error(run)
                for d, run in by["last_bn"].items()
            },
            "{}: test error in points, PreResNet less ResNetLastBN",
        ),
    )
    yield beside(runs, REPORTED[data], DEPTHS["paper"], place)


def beside(
    runs: Runs, reported: Mapping[str, tuple[float, ...]], known: tuple[int, ...], place: str
) -> Plot:
    """Test errors with those of the paper at the depths that it has."""
    numbers = {
        f"{label}-{depth}": value
        for label, values in reported.items()
        for depth, value in zip(known, values, strict=True)
    }
    measured = {run.label: test_error(run) for run in runs.values()}
    papers = {row: numbers[row] for row in measured if row in numbers}
    return beside_reported(
        {"test error": measured},
        {"test error": papers},
        f"Test error at the end of training; {OVER_SEEDS} Reported: {place} of the paper, at its "
        "own scale.",
    )
