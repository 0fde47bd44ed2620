"""Patches and their second moments: against loops over every number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import patches as reference

from layerscope.functional.conditioning import SecondMoment
from layerscope.functional.patches import Patches, padded


@st.composite
def convolutions(draw: st.DrawFn, first_stride: st.SearchStrategy[int]) -> Patches:
    """Of one to three dimensions, images not much larger than the filters."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    size = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    stride = (draw(first_stride), *(draw(st.integers(1, 2)) for _ in range(dims - 1)))
    around = [(k - 1) * d + draw(st.integers(1, 3)) for k, d in zip(size, dilation, strict=True)]
    torch.manual_seed(draw(st.integers(0, 99)))
    channels = groups * draw(st.integers(1, 2))
    images = torch.randn(draw(st.integers(1, 2)), channels, *around, dtype=torch.float64)
    return Patches(images, size, stride, dilation, groups)


def written_out(one: Patches) -> torch.Tensor:
    found = reference.patches(one.images.numpy(), one.size, one.stride, one.dilation, one.groups)
    return torch.from_numpy(found)


@settings(max_examples=80, deadline=None)
@given(convolutions(st.integers(1, 3)))
def test_rows_are_what_the_filters_see(one: Patches) -> None:
    expected = written_out(one)
    assert one.shape == expected.shape
    torch.testing.assert_close(one.rows(), expected, rtol=0, atol=0)
    torch.testing.assert_close(one.squares(), expected.square().sum())


@settings(max_examples=80, deadline=None)
@given(convolutions(st.just(1)))
def test_shared_products_add_up_to_those_of_rows(one: Patches) -> None:
    expected = reference.outer_sum(written_out(one).numpy())
    torch.testing.assert_close(one.outer_sum(), torch.from_numpy(expected))


def test_products_are_shared_only_where_filter_rows_meet_the_same_lines() -> None:
    images = torch.randn(2, 3, 6, 6)
    assert Patches(images, (3, 3), (1, 2), (1, 1)).shared
    assert not Patches(images, (3, 3), (2, 1), (1, 1)).shared
    assert not Patches(images, (1, 3), (1, 1), (1, 1)).shared


@pytest.mark.parametrize("padding", ["valid", "same", (2, 1)], ids=str)
@pytest.mark.parametrize("size", [(3, 3), (1, 5)], ids=str)
def test_patches_times_the_filter_are_the_convolution(padding: object, size: tuple) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    w = torch.randn(5, 4, *size, dtype=torch.float64)
    one = Patches(padded(x, padding, size, (1, 1)), size, (1, 1), (1, 1))  # type: ignore[arg-type]
    expected = F.conv2d(x, w, padding=padding)  # type: ignore[arg-type]
    found = one.rows()[0] @ w.flatten(1).T
    torch.testing.assert_close(found, expected.movedim(1, -1).reshape(-1, 5))


def test_padded_images_are_a_copy() -> None:
    x = torch.randn(1, 1, 3, 3)
    found = padded(x, (0, 0), (3, 3), (1, 1))
    x.zero_()
    assert found.any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("features", ["fewer", "more"])
def test_moments_of_patches_are_those_of_rows(stride: int, features: str) -> None:
    torch.manual_seed(0)
    channels = 2 if features == "fewer" else 20
    one = Patches(torch.randn(3, channels, 8, 8), (3, 3), (stride, stride), (1, 1))
    by_patches, by_rows = SecondMoment(), SecondMoment()
    by_patches.add(one)
    by_rows.add(one.rows())
    assert (one.shape[1] > one.shape[2]) == (features == "fewer")
    torch.testing.assert_close(by_patches.eigenvalues(), by_rows.eigenvalues())
    torch.testing.assert_close(by_patches.matrix(), by_rows.matrix())
    assert by_patches.trace == pytest.approx(by_rows.trace)


def test_large_patches_have_a_trace_only() -> None:
    one = Patches(torch.randn(3, 2, 8, 8), (3, 3), (1, 1), (1, 1))
    found = SecondMoment(most=4)
    found.add(one)
    assert found.trace == pytest.approx(float(one.rows().double().square().sum()) / one.shape[1])
