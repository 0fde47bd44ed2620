import pytest
import torch
from tests.reference import landscape as reference

from layerscope.functional.landscape import displaced, scaled_direction

SHAPES = {"bias": (5,), "matrix": (5, 3), "filters": (4, 3, 2, 2), "sequence": (1, 4, 3)}


def weights():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def test_directions_are_as_long_as_the_weights():
    own = weights()
    found = scaled_direction(own, torch.Generator().manual_seed(0))
    assert not found["bias"].any()
    torch.testing.assert_close(found["matrix"].norm(), own["matrix"].norm())
    torch.testing.assert_close(
        found["filters"].flatten(1).norm(dim=1), own["filters"].flatten(1).norm(dim=1)
    )
    torch.testing.assert_close(found["sequence"].norm(), own["sequence"].norm())


@pytest.mark.parametrize("name", ["matrix", "filters", "sequence"])
def test_directions_are_those_of_the_plain_loops(name):
    own = {name: weights()[name]}
    drawn = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(0))
    found = scaled_direction(own, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[name], reference.normalised(own[name], drawn))


def test_a_vanishing_filter_stays():
    own = {"filters": torch.zeros(2, 3, 1, 1)}
    found = scaled_direction(own, torch.Generator().manual_seed(0))
    assert not found["filters"].any()


def test_displaced_weights():
    own = {"w": torch.tensor([1.0, 2.0])}
    directions = ({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])})
    assert displaced(own, directions, (0.5, -1.0))["w"].tolist() == [1.5, -1.0]
    assert own["w"].tolist() == [1.0, 2.0]
