"""What a configuration can change: frozen, removed, augmented, layers and groups, classes."""

import dataclasses
import json
from itertools import combinations

import pytest
import torch

from layerscope.config import CustomModel, Digits, ResNet, RunConfig
from layerscope.data.dataset import load
from layerscope.errors import LayerscopeError
from layerscope.probes import PathAndProgress, WeightChange, measure
from layerscope.training.loop import train
from layerscope.training.problem import foreign, problem, restore

SMALL = RunConfig(
    model=ResNet(18, stages=(2, 2), width=1 / 32), epochs=1, batch_size=500, probe_batch=32
)
BLOCKS = ("stage1.resblk2", "stage2.resblk2")


def changed(**settings):
    return dataclasses.replace(SMALL, **settings)


def test_frozen_blocks_keep_their_initial_weights(tmp_path):
    run = train(changed(frozen=BLOCKS), tmp_path / "run", accelerator="cpu")
    first, last = run.checkpoint(0), run.checkpoint(run.steps[-1])
    for layer in run.layers:
        moved = [not torch.equal(first[n], last[n]) for n in layer.parameters]
        assert any(moved) == (layer.name not in BLOCKS)


def test_removed_blocks_are_not_there(tmp_path):
    run = train(changed(removed=BLOCKS), tmp_path / "run", accelerator="cpu")
    kept = ["stage0", "stage1.resblk1", "stage2.resblk1", "final_norm", "final_linear"]
    assert list(run.layers.names) == kept
    made = restore(run)
    run.load(made.model, run.steps[-1])
    assert set(made.factory().state_dict()) == set(made.model.state_dict())


def test_the_family_chooses_the_unit_unless_told(tmp_path):
    family = train(SMALL, tmp_path / "family", accelerator="cpu").layers
    modules = train(changed(unit="module"), tmp_path / "module", accelerator="cpu").layers
    assert "stage1.resblk2" in family.names
    assert "stage1.resblk2.body.conv1" in modules.names
    assert sum(m.n_parameters for m in modules) == sum(b.n_parameters for b in family)


def group_of(dataset):
    return dict(zip(dataset["layer"].values, dataset["group"].values, strict=True))


def test_groups_are_a_coordinate_of_what_is_measured(tmp_path):
    groups = ("ends=stage0,final_*", "late=stage2.resblk?")
    config = changed(groups=groups)
    run = train(config, tmp_path / "run", probes=[WeightChange()], accelerator="cpu")
    expected = dict.fromkeys(("stage0", "final_norm", "final_linear"), "ends")
    expected |= {f"stage{s}.resblk{b}": "late" * (s == 2) for s in (1, 2) for b in (1, 2)}
    assert group_of(measure(PathAndProgress(), run)) == expected
    del expected["final_norm"]  # has no matrix, whose change is measured
    assert group_of(run.results("weight_change")) == expected
    thirds = train(changed(groups=("thirds",)), tmp_path / "thirds", accelerator="cpu").layers
    assert [layer.group for layer in thirds][:: len(thirds) - 1] == ["early", "late"]
    with pytest.raises(LayerscopeError, match="group 'a' pattern 'stage9' matches no layer"):
        train(changed(groups=("a=stage9",)), tmp_path / "bad", accelerator="cpu")


def test_runs_of_before_there_were_groups_are_reused(tmp_path):
    run = train(SMALL, tmp_path / "run", accelerator="cpu")
    manifest = json.loads((run.path / "run.json").read_text())
    del manifest["config"]["groups"]
    manifest["checks"] = {}
    (run.path / "run.json").write_text(json.dumps(manifest))
    before = run.manifest["created"]
    assert train(SMALL, run.path, accelerator="cpu").manifest["created"] == before
    with pytest.raises(LayerscopeError, match="a run of another configuration"):
        train(changed(groups=("thirds",)), run.path, accelerator="cpu")


def test_augmented_runs_repeat_and_differ_from_one_another(tmp_path):
    names = ("crop_flip", "crop_flip", "reflect_crop_flip", "none")
    runs = [
        train(changed(augmentation=name), tmp_path / str(i), accelerator="cpu")
        for i, name in enumerate(names)
    ]
    weights = [run.checkpoint(run.steps[-1])["final_linear.weight"] for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not any(torch.equal(a, b) for a, b in combinations(weights[1:], 2))


def test_a_mistyped_augmentation_is_an_error(tmp_path):
    with pytest.raises(LayerscopeError, match="unknown augmentation 'flip'"):
        train(changed(augmentation="flip"), tmp_path / "run", accelerator="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("stage9",)}, "no module matches the pattern 'stage9'"),
        ({"removed": ("stage2.resblk1",)}, "cannot be removed"),
        ({"frozen": ("*",)}, "freeze every parameter"),
    ],
)
def test_options_that_fit_nothing_are_named(settings, message):
    with pytest.raises(LayerscopeError, match=message):
        problem(changed(**settings))


def test_enlarged_digits_repeat_pixels():
    small, large = load(Digits()), load(Digits(image_size=32))
    assert large.input_shape == (1, 32, 32)
    assert torch.equal(large.train.inputs[:, :, ::4, ::4], small.train.inputs)
    with pytest.raises(LayerscopeError, match="multiple of the digits' 8 pixels"):
        load(Digits(image_size=20))


def test_classes_that_do_not_match_are_an_error(tmp_path):
    sizes = '{"input_shape": [1, 8, 8], "outputs": 10, "stages": [2, 2], "width": 0.03125}'
    config = CustomModel("layerscope.models.resnet:resnet", sizes)
    run = train(SMALL, tmp_path / "run", accelerator="cpu")
    assert set(foreign(run, config, load(Digits()))) >= {"model", "task", "data", "factory"}
    fewer = dataclasses.replace(load(Digits()), n_classes=7)
    with pytest.raises(LayerscopeError, match="has 10 outputs, digits has 7 classes"):
        foreign(run, config, fewer)
    given = foreign(run, config, load(Digits()))
    for path in (run.path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(LayerscopeError, match="run has no checkpoints"):
        foreign(run, config, load(Digits()))
    beyond = (torch.zeros(2, 1, 8, 8), torch.tensor([3, 10]))
    with pytest.raises(LayerscopeError, match="class 10 among the labels"):
        given["task"].losses(given["model"](beyond[0]), beyond)
