"""Recipes on deep residual networks and convolutions: claims follow from the numbers."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree

from layerscope.recipes import find
from layerscope.recipes.layerwise_conditioning.warning import area
from layerscope.training.problem import untrained

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 160, 320])
EPOCHS = STEPS / 32
GUESS = np.log(10)


def recipe(name):
    return find(f"layerwise_conditioning.{name}")


def over_steps(steps=STEPS, layer=None, **variables):
    """Numbers over steps, of one layer where it is named."""
    dims = ("step",) if layer is None else ("step", "layer")
    shape = (len(steps),) if layer is None else (len(steps), 1)
    coords = {"seed": range(5), "step": steps, "epoch": ("step", np.asarray(steps) / 32)}
    if layer is not None:
        coords["layer"] = [layer]
    made = {
        name: noisy(
            np.broadcast_to(np.asarray(values, float).reshape(-1, *shape[1:]), shape), *dims
        )
        for name, values in variables.items()
    }
    return xr.Dataset(made, coords)


def head(rise=1.0, size=1.0, ratio=1.0, loss=0.5, error=40.0, stuck=0):
    """Measurements of one network: what its last layer and its loss do."""
    first = GUESS + rise * np.array([0, 1, 1, 1, 0.5, 0.5, 0.5])
    middle = np.full(len(STEPS) - len(first), loss)
    batch = np.concatenate([first, middle])
    batch[4 : 4 + stuck] = GUESS
    sizes = size * np.array([1, 1, 1, 1, 1, 1, 1, 0.1, 0.1])
    epochs = np.arange(1, 11) * 32
    return {
        "performance": performance(error),
        "training_loss,over=batch": over_steps(loss=batch),
        "training_loss": over_steps(epochs, loss=np.full(10, loss)),
        "conditioning": over_steps(layer="final_linear", largest_input=sizes, largest=sizes),
        "weight_domination": over_steps(layer="final_linear", ratio=ratio, weight=1.0),
    }


def parted(variant):
    network, depth = variant.rsplit("-", 1)
    return network, int(depth)


def test_a_loss_that_rises_with_depth_as_what_enters_the_last_layer_does():
    study = recipe("fig6")("small")

    def made(variant):
        _, depth = parted(variant)
        return head(rise=depth, size=depth, stuck=0 if depth == 20 else 3)

    assert set(decided(study, made).values()) == {"holds"}

    def other(variant):
        _, depth = parted(variant)
        return head(rise=1 / depth, size=1 / depth)

    found = decided(study, other)
    assert found["input-large"] == found["rises-with-depth"] == "fails"


def test_first_iterations_are_decided_also_of_networks_that_learn_nothing():
    made = lambda variant: head(rise=parted(variant)[1], size=parted(variant)[1], error=90.0)  # noqa: E731
    found = decided(recipe("fig6")("small"), made)
    assert found["loss-rises"] == found["input-large"] == "holds"
    assert found["input-shrinks"] == "inconclusive"


@pytest.mark.parametrize(
    ("name", "bad", "good"), [("fig7", "resnet", "last_bn"), ("fig9", "preresnet_v1", "preresnet")]
)
def test_the_last_normalisation_at_the_greatest_depth(name, bad, good):
    study = recipe(name)("small")
    assert {parted(v)[1] for v in study.variants} == {110}

    def made(troubled):
        return lambda v: (
            head(10.0, 100.0, 1e-4) if parted(v)[0] == troubled else head(0.1, 1.0, 1.0)
        )

    assert set(decided(study, made(bad)).values()) == {"holds"}
    assert set(decided(study, made(good)).values()) == {"fails"}


def test_training_losses_by_depth():
    study = recipe("fig8")("small")

    def made(sign):
        def of(variant):
            network, depth = parted(variant)
            gain = 0.3 if network == "last_bn" else 0.0
            loss = 1 - sign * gain + sign * (1 if not gain else -1) * depth / 1000
            return head(loss=loss, size=10 ** (-sign * gain))

        return of

    assert set(decided(study, made(1)).values()) == {"holds"}
    assert set(decided(study, made(-1)).values()) == {"fails"}


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_test_errors_by_kind_and_depth(name):
    study = recipe(name)("small")

    def made(best, worst):
        def of(variant):
            network, depth = parted(variant)
            shift = {best: -depth / 20, "preresnet": 0.5, worst: depth / 20}.get(network, 1.0)
            return {"performance": performance(50 + shift)}

        return of

    assert set(decided(study, made("last_bn", "preresnet_v1")).values()) == {"holds"}
    other = decided(study, made("preresnet_v1", "last_bn"))
    assert set(other.values()) == {"fails"}


def test_networks_without_normalisation_but_the_last():
    study = recipe("tableA2")("small")
    better = lambda v: {"performance": performance(40.0 if "last_bn" in v else 60.0)}  # noqa: E731
    worse = lambda v: {"performance": performance(60.0 if "last_bn" in v else 40.0)}  # noqa: E731
    assert set(decided(study, better).values()) == {"holds"}
    assert set(decided(study, worse).values()) == {"fails"}


def test_reported_numbers_stand_beside_depths_that_the_paper_has():
    study = recipe("table1")("small")
    made = lambda v: {"performance": performance(50.0)}  # noqa: E731
    table = {figure.key: figure for figure in study.draw(tree(study, made))}["table"].data
    reported = table["test_error_reported"]
    by_row = dict(zip(table["network"].values, reported.values, strict=True))
    assert (by_row["ResNet-56"], by_row["ResNetLastBN-110"]) == (7.52, 6.10)
    assert np.isnan(by_row["ResNet-20"])


def test_a_network_that_always_diverged_keeps_its_row():
    study = recipe("tableA2")("small")
    made = tree(study, lambda v: {"performance": performance(50.0)})
    gone = made.drop_nodes(["vgg-110", "vgg_last_bn-110"])
    table = {figure.key: figure for figure in study.draw(gone)}["table"]
    rows = dict(zip(table.row_names(), table.cells(), strict=True))
    assert len(rows) == len(made.children)
    assert rows["VGG-110"][0].value is None
    assert rows["VGG-56"][0].value is not None


CONVOLUTIONS = ["stage0.conv", "stage1.conv1.conv", "stage2.conv2.conv", "final_linear"]


def conditions(kappa):
    names = {f"kappa_{p}_{f}" for p in (50, 80) for f in ("input", "gradient")}
    names |= {f"largest_{f}" for f in ("input", "gradient")}
    values = np.broadcast_to(np.asarray(kappa, float), (3, len(CONVOLUTIONS)))
    coords = {
        "seed": range(5),
        "layer": CONVOLUTIONS,
        "step": range(3),
        "epoch": ("step", np.arange(3.0)),
    }
    return xr.Dataset({name: noisy(values, "step", "layer") for name in names}, coords)


@pytest.mark.parametrize("name", ["figA8", "figA9", "figA10"])
def test_convolutions_are_better_conditioned_with_normalisation_or_are_not(name):
    study = recipe(name)("small")

    def made(plain, normal):
        return lambda v: {"conditioning": conditions(plain if v == "plain" else normal)}

    first_does_not_count = [1e6, 10, 10, 1e6]
    assert set(decided(study, made(100, first_does_not_count)).values()) == {"holds"}
    assert set(decided(study, made(np.inf, 10)).values()) == {"holds"}
    assert set(decided(study, made(10, 100)).values()) == {"fails"}


def test_imagenet_losses_and_errors():
    for name in ("figA14", "tableA1"):
        study = recipe(name)("small")

        def made(better):
            def of(variant):
                gains = {"standard": 1.0, "decay": 3.0, "dropout": 4.0}[variant.rsplit("-", 1)[1]]
                gain = gains if variant.startswith(better) else 0.0
                return head(loss=5 - gain, error=50 - gain)

            return of

        assert set(decided(study, made("last_bn")).values()) == {"holds"}
        assert set(decided(study, made("resnet")).values()) == {"fails"}


def dominated(ratio, fall, error):
    names = ["layer1", "layer2", "layer3", "layer4", "output"]

    def made(variant):
        plain = variant == "none"
        steps = np.arange(4) * 59
        coords = {"seed": range(5), "layer": names, "step": steps, "epoch": ("step", steps / 59)}
        ratios = np.full((4, len(names)), 0.1 if plain else ratio)
        ratios[:, -1] = 0.1
        return {
            "performance": performance(10.0 if plain else error),
            "training_loss,over=batch": over_steps(steps, loss=2.3 - fall * steps / steps[-1]),
            "training_loss": over_steps(steps[1:], loss=1.0),
            "weight_domination": xr.Dataset({"ratio": noisy(ratios, "step", "layer")}, coords),
        }

    return made


def test_dominated_layers_cost_accuracy_or_do_not():
    study = recipe("fig4")("small")
    assert set(decided(study, dominated(1e-5, 1.0, 20.0)).values()) == {"holds"}
    assert decided(study, dominated(1e-2, 1.0, 20.0))["dominated"] == "fails"
    assert decided(study, dominated(1e-5, -1.0, 20.0))["loss-falls"] == "fails"
    better = decided(study, dominated(1e-5, 1.0, 5.0))
    assert {v for k, v in better.items() if k.endswith("degrades")} == {"fails"}


def test_dominated_layers_compute_what_they_did():
    configs = recipe("fig4")("smoke").variants
    outputs = []
    for name in ("none", "hidden"):
        torch.manual_seed(0)
        model, example = untrained(configs[name])
        torch.manual_seed(1)
        outputs.append(
            (model, model.double().train()(torch.randn(64, *example.shape[1:]).double()))
        )
    (plain, before), (large, after) = outputs
    torch.testing.assert_close(large.layer1.weight, 100 * plain.layer1.weight, rtol=1e-6, atol=0)
    assert torch.equal(large.output.weight, plain.output.weight)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def warned(score):
    """Trainings of which those at the largest rate end badly; the score is of size and loss."""

    def made(variant):
        rate = float(variant.rsplit("-", 1)[1])
        bad = rate >= 0.1
        size, loss = score(bad)
        steps = np.array([0, 50, 160])
        return {
            "performance": performance(89.0 if bad else 20.0),
            "conditioning": over_steps(steps, "output", largest_input=10.0**size),
            "training_loss,over=batch": over_steps(steps, loss=loss),
        }

    return made


def test_a_warning_that_tells_and_one_that_does_not():
    study = recipe("early_warning")("small")
    assert len(study.variants) == 40
    tells = decided(study, warned(lambda bad: (-6.0 if bad else 0.0, 2.3)))
    assert tells["far-tells"] == tells["small-tells"] == "holds"
    against = decided(study, warned(lambda bad: (0.0, 3.0 if bad else 1.0)))
    assert against["small-better-than-loss"] == against["far-better-than-loss"] == "fails"
    large = decided(study, warned(lambda bad: (6.0 if bad else 0.0, 2.3)))
    assert (large["far-tells"], large["small-tells"]) == ("holds", "fails")


def by_pairs(warning, bad):
    high = [w for w, b in zip(warning, bad, strict=True) if b]
    low = [w for w, b in zip(warning, bad, strict=True) if not b]
    pairs = list(itertools.product(high, low))
    return sum(1.0 if w > v else 0.5 if w == v else 0.0 for w, v in pairs) / len(pairs)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    warning, bad = rng.integers(0, 5, (3, 30)).astype(float), rng.integers(0, 2, (3, 30))
    found = area(
        xr.DataArray(warning, dims=("seed", "run")), xr.DataArray(bad * 1.0, dims=("seed", "run"))
    )
    expected = [by_pairs(w, b) for w, b in zip(warning, bad, strict=True)]
    np.testing.assert_allclose(found.values, expected)


def test_a_seed_of_which_none_ends_badly_has_no_area():
    warning = xr.DataArray([[1.0, 2.0, np.nan]], dims=("seed", "run"))
    assert np.isnan(area(warning, xr.zeros_like(warning)).values).all()
    bad = xr.DataArray([[0.0, 1.0, 1.0]], dims=("seed", "run"))
    assert area(warning, bad).values.tolist() == [1.0]
