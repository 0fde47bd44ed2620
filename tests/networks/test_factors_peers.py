"""Second moments at matrices against those of curvlinops, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.cases import CLASSIFY, classes
from torch import Tensor, nn

from layerscope.networks.factors import collect

curvlinops = pytest.importorskip("curvlinops", reason="no curvlinops: see tests/peers.txt")


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, (3, 2), stride=(1, 2), bias=False),
        nn.ReLU(),
        nn.Conv2d(5, 3, 3, stride=2, padding=2, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def theirs(model: nn.Module, batch: Any, kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Means over rows: their gradients are sums over the places of an image."""
    places: dict[str, int] = {}
    known = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: places.update({name: output[0, 0].numel()})
        )
        for name, module in known.items()
    ]
    model(batch[0])
    for handle in handles:
        handle.remove()
    made = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        [module.weight for module in known.values()],
        [batch],
        fisher_type=kind,
        check_deterministic=False,
    )
    made.compute_kronecker_factors()
    return {
        f"{name}.weight": (
            made._input_covariances[name],
            made._gradient_covariances[name] / places[name],
        )
        for name in known
    }


@pytest.mark.parametrize(("fisher", "kind"), [("empirical", "empirical"), ("exact", "type-2")])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", [linear, convolutional])
def test_factors_are_those_of_curvlinops(
    build: Any, training: bool, fisher: Any, kind: str
) -> None:
    torch.manual_seed(0)
    model = build().double().train(training)
    x, y = classes(4, n=11)(0) if build is linear else classes(2, 8, 7, n=11)(0)
    batch = (x.double(), y)
    expected = theirs(model, batch, kind)
    found = collect(model, [batch], CLASSIFY, fisher, training=training, places="patches")
    seen = {use.weight: one for use, one in found.items() if one.gradient is not None}
    assert seen.keys() == expected.keys()
    for name, one in seen.items():
        for moment, matrix in zip((one.input, one.gradient), expected[name], strict=True):
            assert moment is not None
            torch.testing.assert_close(moment.matrix()[0], matrix, rtol=1e-9, atol=1e-12)
            values = torch.linalg.eigvalsh(matrix).flip(0)
            rest = 1e-9 * float(values[0])
            torch.testing.assert_close(moment.eigenvalues()[0], values, rtol=1e-6, atol=rest)
