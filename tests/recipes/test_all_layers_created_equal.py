"""The claims decide rightly on made data whose answer is known; no test says that science holds."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, performance, tree

from layerscope.figures.figure import Heatmap
from layerscope.recipes.all_layers_created_equal import paper
from layerscope.recipes.all_layers_created_equal.joint import REPORTED
from layerscope.reproduce import reproduce

RECIPES = paper.recipes
CHECKPOINTS = ["random", "0", "10", "20"]
FCN = ("layer1", "layer2", "layer3", "output")
VGG = tuple(f"conv{i}" for i in range(1, 10))
RESNET = (
    "stage0",
    *(f"stage{s}.resblk{b}" for s in (1, 2, 3) for b in (1, 2, 3)),
    "final_linear",
)


def resets(layers, start, random=None, first=None, member=None, base=2.0, rms=None, seeds=3):
    """What `Reinitialisation` measures, with given rises at random, checkpoint 0 and 10."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (seeds, len(layers), 4))
    start = np.asarray(start, float)
    columns = [random if random is not None else start, start, start if first is None else first]
    rise = np.stack([*np.broadcast_arrays(*columns), np.zeros_like(start)], 1) + noise
    rms = start if rms is None else np.asarray(rms, float)
    distance = np.broadcast_to(rms[:, None], rise.shape) + noise
    dims = ("seed", "layer", "checkpoint")
    kinds = np.where(start < 2, "ambient", "critical")
    variables = {
        "degradation": (dims, rise),
        "error": (dims, rise + base),
        "rms_distance": (dims, distance),
        "max_distance": (dims, distance),
        "label": (("seed", "layer"), np.broadcast_to(kinds, (seeds, len(layers)))),
        "base_error": ("seed", np.full(seeds, base) + noise[:, 0, 0]),
    }
    if member is not None:
        rows = np.broadcast_to(np.asarray(member, bool), (seeds, len(layers)))
        variables["member"] = (("seed", "layer"), rows)
    coords = {"layer": list(layers), "checkpoint": CHECKPOINTS, "seed": range(seeds)}
    return xr.Dataset(variables, coords=coords)


def given(measured):
    """One dataset, or a list of them, for every variant or by variant."""
    found = measured if callable(measured) else lambda variant: measured

    def made(variant):
        dataset = found(variant)
        kinds = ("reinitialisation", "adversarial_accuracy", "generalisation_bound")
        several = list(dataset) if isinstance(dataset, tuple) else dataset
        return dict.fromkeys(kinds, several)

    return made


def outcomes(name, measured, scale="small"):
    return decided(RECIPES[name](scale), given(measured))


def test_fig1():
    as_reported = resets(FCN, [40, 1, 2, 3], random=88, rms=[3, 2, 4, 1])
    assert set(outcomes("fig1", as_reported).values()) == {"holds"}
    opposite = resets(FCN, [1, 40, 2, 3], random=[60, 88, 88, 88])
    assert set(outcomes("fig1", opposite).values()) == {"fails"}
    falling = resets(FCN, [40, 1, 2, 3], random=88, rms=[-40, -1, -2, -3])
    assert outcomes("fig1", falling)["distance"] == "fails"
    head = resets(FCN, [40, 1, 2, 60], random=88)
    assert outcomes("fig1", head)["first-layer"] == "holds"
    one = resets(FCN, [40, 1, 2, 3], random=88, rms=[3, 2, 4, 1], seeds=1)
    assert set(outcomes("fig1", one).values()) == {"inconclusive"}


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
def test_fig2_compares_widths(sign, outcome):
    def measured(variant):
        width = int(variant.rpartition("x")[2])
        return resets(FCN, [90, *[20 - sign * np.log2(width)] * 3])

    found = outcomes("fig2", measured)
    assert set(found) == {"mnist-3", "mnist-5", "cifar10-3", "cifar10-5"}
    assert set(found.values()) == {outcome}


def joint(alone, together, other):
    member = [False, True, True, True]
    groups = (
        resets(FCN, [500, *[rise] * 3], member=member) for rise in (together, together, other)
    )
    return resets(FCN, [40, *[alone] * 3]), *groups


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((3, 60, 10), "holds"),
        ((30, 60, 10), "fails"),
        ((3, 10, 5), "fails"),
        ((3, 60, 80), "fails"),
    ],
)
def test_fig8(values, outcome):
    assert outcomes("fig8", joint(*values)) == {"joint": outcome}


def blocks(first, later, head=1.0):
    return [30, *[first, later, later] * 3, head]


@pytest.mark.parametrize("name", ["fig3", "fig11", "fig17"])
def test_bottom_of_plain_networks(name):
    down = np.repeat([50.0, 20.0, 1.0], 3)
    assert outcomes(name, resets(VGG, down))["bottom"] == "holds"
    assert outcomes(name, resets(VGG, down[::-1]))["bottom"] == "fails"
    assert outcomes(name, resets(VGG, np.linspace(80, 75, len(VGG))))["bottom"] == "fails"


@pytest.mark.parametrize("name", ["fig4", "fig5"])
def test_residual_blocks(name):
    random = [80, *[60, 1, 1] * 3, 70]
    found = outcomes(name, resets(RESNET, blocks(30, 0.5), random=random))
    assert set(found.values()) == {"holds"}
    random = [80, *[60, 40, 40] * 3, 0.0]
    found = outcomes(name, resets(RESNET, blocks(0.5, 1.0), random=random))
    assert set(found.values()) == {"fails"}


@pytest.mark.parametrize("name", ["fig6", "fig10"])
def test_groups_of_blocks(name):
    member = [".resblk" in n and not n.endswith("1") for n in RESNET]
    alone = resets(RESNET, blocks(30, 0.5))
    groups = [resets(RESNET, np.full(len(RESNET), r), member=member) for r in (40, 10, 5)]
    chosen = (alone, groups[0], groups[2]) if name == "fig6" else (alone, *groups)
    assert set(outcomes(name, chosen).values()) == {"holds"}
    flipped = (alone, groups[2], *[groups[0]] * (len(chosen) - 2))
    assert outcomes(name, flipped) == {"joint": "holds", "grouping": "fails"}


@pytest.mark.parametrize("name", ["fig12", "fig13"])
def test_first_epoch(name):
    worse = resets(RESNET, blocks(30, 0.5), first=np.asarray(blocks(30, 0.5)) + 5)
    assert set(outcomes(name, worse).values()) == {"holds"}
    better = resets(RESNET, blocks(0, 0.5), first=np.asarray(blocks(0, 0.5)) - 5)
    assert set(outcomes(name, better).values()) == {"fails"}
    same = np.asarray(blocks(30, 0.5))
    few = resets(RESNET, same, first=same + 5 * (np.arange(len(same)) < 2))
    few["error"] = few["error"].round(1)
    assert outcomes(name, few)["first-epoch"] == "holds"


@pytest.mark.parametrize("name", ["fig14", "fig15", "fig16"])
def test_distances(name):
    assert set(outcomes(name, resets(RESNET, blocks(30, 1, 9))).values()) == {"holds"}
    rise = np.asarray(blocks(30, 1, 9), float)
    assert set(outcomes(name, resets(RESNET, rise, rms=-rise)).values()) == {"fails"}


def test_table1():
    def measured(frozen, removed):
        errors = {"full": 8.0, "frozen": frozen, "removed": removed}
        return lambda variant: resets(
            RESNET, blocks(30, 1), base=errors[variant.rpartition("-")[2]]
        )

    assert set(outcomes("table1", measured(11, 10)).values()) == {"holds"}
    assert outcomes("table1", measured(8.5, 20)) == {"frozen": "fails", "removed": "fails"}


def test_table1_agrees_with_the_numbers_of_the_paper():
    def measured(variant):
        data, network, way = variant.split("-")
        full, reset, frozen, removed, _ = REPORTED[data][int(network.removeprefix("resnet"))]
        base = {"full": full, "frozen": frozen, "removed": removed}[way]
        return resets(RESNET, blocks(30, reset - full), base=base)

    found = outcomes("table1", measured, "paper")
    assert found == dict.fromkeys(("frozen", "removed", "removed-imagenet"), "holds")


def accuracies(clean, fgsm, pgd):
    def measured(variant):
        counts = [0, 1, 2] if variant == "4x2" else [0, 1, 2, 4]
        values = np.stack([np.array([clean, fgsm, pgd], float) for _ in counts])
        values[0] = 90, 10, 1
        noise = np.random.default_rng(1).normal(0, 1e-3, (3, *values.shape, 2))
        dims = ("seed", "stages_reset", "attack", "repeat")
        coords = {"stages_reset": counts, "attack": ["clean", "fgsm", "pgd"]}
        return xr.Dataset({"accuracy": (dims, values[..., None] + noise)}, coords=coords)

    return measured


def test_table2():
    assert set(outcomes("table2", accuracies(88, 60, 5)).values()) == {"holds"}
    assert set(outcomes("table2", accuracies(70, 15, 0)).values()) == {"fails"}


@pytest.mark.parametrize(("gain", "outcome"), [(3, "holds"), (-3, "fails")])
def test_table3(gain, outcome):
    def measured(variant):
        return resets(FCN, [1] * 4, base=10 - gain * variant.endswith("-wd_bn"))

    assert outcomes("table3", measured) == {"both-help": outcome}


@pytest.mark.parametrize(
    ("plain", "best", "expected"),
    [(1.2, 0.8, ("holds", "fails")), (1.2, 1.3, ("fails", "holds"))],
)
def test_bound(plain, best, expected):
    seeds = np.random.default_rng(0).normal(0, 1e-3, 3)
    bounds = np.stack([plain + 0.1 + seeds, best + seeds], 1)
    data = xr.Dataset(
        {"bound": (("seed", "guess"), bounds), "plain": ("seed", plain + seeds)},
        coords={"guess": ["nothing", "every_other"]},
    )
    assert tuple(outcomes("bound", data).values()) == expected


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"table2", "bound"}))
def test_figures_of_made_data(name):
    """Every figure and table can be made, has a key of its own and a value to show."""
    layers = RESNET if "resnet" in next(iter(RECIPES[name]("small").variants)) else FCN
    member = [".resblk" in n or n in FCN[1:] for n in layers]
    dataset = resets(layers, np.linspace(30, 0, len(layers)), member=member)
    whole = (("seed", "checkpoint"), np.tile([np.nan, 90.0, 50.0, 2.0], (3, 1)))
    dataset = dataset.assign(model_error=whole).assign_attrs(steps_per_epoch=10)
    study = RECIPES[name]("small")
    figures = study.figures(tree(study, given(dataset)))
    assert len({figure.key for figure in figures}) == len(figures) > 0
    for figure in figures:
        if isinstance(figure, Heatmap):
            assert np.isfinite(figure.limits()).all()


def test_a_network_that_has_hardly_learnt_decides_nothing():
    """That drawing a layer anew leaves 89% error says nothing where the whole network has that."""
    study = RECIPES["fig1"]("small")
    measured = given(resets(FCN, [40, 1, 2, 3], random=89, rms=[3, 2, 4, 1], base=89))
    made = lambda variant: {**measured(variant), "performance": performance(89.0)}  # noqa: E731
    assert set(decided(study, made).values()) == {"inconclusive"}


def test_paper_scale_has_the_papers_settings():
    for recipe in RECIPES.values():
        for name, config in recipe("paper").variants.items():
            if config.data.name == "imagenet" or "cifar10-fcn" in name:
                continue
            assert (config.epochs, config.batch_size) == (100, 128)
            assert (config.milestones, config.decay) == ((30, 60, 90), 0.2)
            assert config.optimizer.momentum == 0.9
            assert config.augmentation == ("none" if config.data.name == "mnist" else "crop_flip")
            assert config.data.limit is None


@pytest.mark.parametrize(
    "name",
    ["bound", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fig1", "table1", "table2"))],
)
def test_smoke_scale_runs_to_a_report(name, tmp_path):
    study = RECIPES[name]("smoke", seeds=(0, 1))
    result = reproduce(study, tmp_path, processes=1)
    assert [claim.id for claim, _ in result.verdicts] == [claim.id for claim in study.claims]
    page = result.files[-1].read_text()
    assert all(claim.text[:20] in page for claim in study.claims)
    assert len(list((result.files[-2]).glob("*.png"))) == len(study.figures(result.data))
