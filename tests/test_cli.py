"""The command line as a user meets it: exit codes, messages, files."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
import xarray as xr

from layerscope.cli import main, output
from layerscope.cli.choices import given_paths, take_name
from layerscope.cli.options import RunRecipe
from layerscope.config import RunConfig, Start
from layerscope.config.paths import get_path, set_path
from layerscope.errors import LayerscopeError
from layerscope.models.fcn import fcn
from layerscope.runs.store import Run

SMALL = ["--model.width", "8", "--model.depth", "1", "--epochs", "2", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run trained from the command line."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", *SMALL, "--out", str(path)]) == 0
    return path


def test_training_leaves_a_run_and_a_report(trained):
    run = Run.open(trained)
    assert run.status == "complete"
    assert run.manifest["config"]["model"]["width"] == 8
    assert (trained / "report.html").stat().st_size > 1e6


def test_optimiser_schedule_and_start_are_options(trained, tmp_path):
    words = ["--optimizer", "adamw", "--schedule", "cosine", "--warmup", "3", "--start.step", "12"]
    start = ["--start.path", str(trained), "--start.fresh", "output*"]
    assert main(["train", *SMALL, *words, *start, "--out", str(tmp_path / "run")]) == 0
    run, source = Run.open(tmp_path / "run"), Run.open(trained)
    config = run.manifest["config"]
    assert config["optimizer"]["type"] == "AdamW"
    assert (config["schedule"], config["warmup"]) == ("cosine", 3)
    assert config["start"]["fresh"] == ["output*"]
    same = {n: torch.equal(t, source.checkpoint(12)[n]) for n, t in run.checkpoint(0).items()}
    assert same == {name: name.startswith("layer") for name in same}
    assert source.manifest["config"]["start"] is None


@pytest.mark.parametrize("probe", ["weight_change", "gradient_magnitude", "convergence"])
def test_measuring_prints_a_row_per_layer(trained, capsys, probe):
    assert main(["measure", probe, str(trained)]) == 0
    printed = capsys.readouterr().out
    assert "layer1" in printed
    assert "output" in printed


def test_columns_that_do_not_fit_follow_below(trained, capsys, monkeypatch):
    monkeypatch.setattr(output.out, "width", 60)
    assert main(["measure", "conditioning", str(trained)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-2])) <= 60
    assert printed.count("layer1") == math.ceil(21 / ((60 - len("layer1")) // output.COLUMN))
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


def test_settings_of_a_probe_are_options(trained):
    assert main(["measure", "weight_change", str(trained), "--p", "2"]) == 0
    assert "weight_change,p=2.0@checkpoints" in Run.open(trained).result_keys


def test_groups_of_layers_are_an_option(tmp_path, capsys):
    groups = ["--groups", "hidden=layer*", "last=output"]
    assert main(["train", *SMALL, *groups, "--out", str(tmp_path / "run")]) == 0
    found = Run.open(tmp_path / "run").results("weight_change")["group"]
    assert found.values.tolist() == ["hidden", "last"]
    assert main(["train", *SMALL, "--groups", "hidden", "--out", str(tmp_path / "b")]) == 2
    assert "label=pattern" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--recompute", "weight_change", "RUN"],
        ["RUN", "weight_change"],
        ["--p", "2", "weight_change", "RUN"],
        ["RUN", "--no-recompute", "--p=2", "weight_change"],
        ["--data-root", "weight_change", "weight_change", "RUN"],
        ["convergence", "--intervals", "0", "2", "RUN"],
    ],
    ids=" ".join,
)
def test_options_of_measuring_may_stand_anywhere(trained, capsys, words):
    assert main(["measure", *(str(trained) if word == "RUN" else word for word in words)]) == 0
    assert "layer1" in capsys.readouterr().out


RECIPES = {"fig1", "fig2"}


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        ("fig1 --scale smoke", "fig1", "--scale smoke"),
        ("--scale smoke fig1", "fig1", "--scale smoke"),
        ("--scale=smoke fig1", "fig1", "--scale=smoke"),
        ("--seeds 0 1 fig1 --epochs 2", "fig1", "--seeds 0 1 --epochs 2"),
        ("--out fig2 fig1", "fig1", "--out fig2"),
        ("--model.batch-norm fig1", "fig1", "--model.batch-norm"),
        ("--scale smoke fgi1", "fgi1", "--scale smoke"),
        ("--processes 1", None, "--processes 1"),
        ("", None, ""),
    ],
)
def test_a_recipe_is_found_among_options(words, name, rest):
    left = words.split()
    assert take_name(left, RECIPES.__contains__, RunRecipe) == name
    assert left == rest.split()


FACTORY = ["--model", "layerscope.models.fcn:fcn", "--arguments"]


def arguments(**changes):
    sizes = {"input_shape": [1, 8, 8], "outputs": 10, "depth": 1, "width": 8}
    return [*FACTORY, json.dumps(sizes | changes)]


def test_a_model_of_ones_own_is_reset_and_tested_on_a_named_data_set(trained, capsys):
    words = ["measure", "reinitialisation", str(trained), "--draws", "2"]
    assert main([*words, "--recompute"]) == 0
    expected = capsys.readouterr().out
    assert main([*words, "--recompute", *arguments(), "--data", "digits"]) == 0
    assert capsys.readouterr().out == expected


OTHER = {
    "classes": (
        [*arguments(), "--data", "sine"],
        "does not run on sine",
    ),
    "sizes": ([*arguments(width=9), "--data", "digits"], "do not fit"),
    "images": (
        [*arguments(), "--data", "digits", "--data.image-size", "16"],
        "does not run on digits",
    ),
    "model": (["--data", "digits"], "--data is given without --model"),
}


@pytest.mark.parametrize(("words", "message"), OTHER.values(), ids=OTHER)
def test_data_that_do_not_fit_are_an_error(trained, capsys, words, message):
    assert main(["measure", "reinitialisation", str(trained), *words]) == 2
    assert message in capsys.readouterr().err


def test_figures_and_reports_of_a_run(trained, tmp_path):
    assert main(["figure", str(trained), "--out", str(tmp_path)]) == 0
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".pdf"}
    assert main(["report", str(trained), "--out", str(tmp_path / "page.html")]) == 0
    assert "layer1" in (tmp_path / "page.html").read_text()


def test_listing_names_everything(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("layer_convergence_bias.fig1a", "path_and_progress", "residual_fcn", "cifar10"):
        assert name in printed


def rows(printed):
    """The words of every row of a table of sites; what a row is behind may be several words."""
    return [line.split() for line in printed.splitlines()[2:]]


class Gated(torch.nn.Module):
    """A product with a gate, and an activation before any parameter."""

    def __init__(self, inputs):
        super().__init__()
        self.value, self.gate = torch.nn.Linear(inputs, 3), torch.nn.Linear(inputs, 3)

    def forward(self, x):
        x = torch.tanh(x.flatten(1))
        return self.value(x) * torch.sigmoid(self.gate(x))


def gated(inputs=64):
    """Factory for the tests below."""
    return Gated(inputs)


SITES = {
    "default": ([], [["0", "activation1", "ReLU", "layer1", "no", "no"]]),
    "linear": (
        ["--model.depth", "2", "--linear", "last:1"],
        [
            ["0", "activation1", "ReLU", "layer1", "no", "no"],
            ["1", "activation2", "ReLU", "layer2", "no", "yes"],
        ],
    ),
    "own model": (
        ["--model", f"{__name__}:gated"],
        [
            ["0", "tanh()", "Tanh", "the", "input", "no", "no"],
            ["1", "sigmoid()", "Sigmoid", "gate", "yes", "no"],
        ],
    ),
    "regression": (
        ["--data", "sine", "--model.activation", "tanh"],
        [["0", "activation1", "Tanh", "layer1", "no", "no"]],
    ),
    "none": (["--model.activation", "identity"], []),
}


@pytest.mark.parametrize(("words", "expected"), SITES.values(), ids=SITES)
def test_sites_of_a_model_are_listed_in_order(words, expected, capsys):
    depth = [] if {"--model", "--model.depth"} & set(words) else ["--model.depth", "1"]
    assert main(["list", "sites", *words, *depth]) == 0
    assert rows(capsys.readouterr().out) == expected


def test_positions_in_the_list_of_sites_are_those_that_training_takes(capsys, tmp_path):
    own = ["--model", "resnet", "--model.depth", "18", "--model.width", "0.0625"]
    assert main(["list", *own, "--removed", "stage2.resblk2", "sites"]) == 0
    (name,) = [row[1] for row in rows(capsys.readouterr().out) if row[0] == "5"]
    assert main(["list", "sites", *own, "--removed", "stage2.resblk2", "--linear", "5"]) == 0
    found = rows(capsys.readouterr().out)
    assert [row[1] for row in found if row[-1] == "yes"] == [name]
    assert not any("stage2.resblk2" in row[1] for row in found)


def test_names_of_sites_are_not_cut_off_on_narrow_terminals(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["list", "sites", "--model", "resnet", "--model.depth", "18"]) == 0
    assert len(rows(capsys.readouterr().out)) == 17


def test_sites_on_an_image_set_are_listed_without_the_images(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["list", "sites", "--data-root", str(tmp_path), "--model.depth", "1", "--data"]
    assert main([*words, "cifar10", "--data.image-size", "16"]) == 0
    assert "fcn on inputs of 3 x 16 x 16: 1 site where" in capsys.readouterr().out
    for data in (["nobody/birds"], ["mnist", "--data.image-size", "0"]):
        assert main([*words, *data]) == 2
    printed = capsys.readouterr().err
    assert "nobody/birds is not on this machine" in printed
    assert "image_size is 0" in printed


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    words = ["run", "--scale", "smoke", "--seeds", "0", "1", "layer_convergence_bias.fig1a"]
    assert main([*words, "--out", str(out), "--processes", "1", "--model.width", "8"]) == 0
    return out


def test_a_recipe_writes_data_claims_figures_and_report(reproduced):
    folder = reproduced / "layer_convergence_bias.fig1a" / "smoke,model.width=8"
    assert "Changed here: model.width=8." in (folder / "report.html").read_text()
    claims = json.loads((folder / "claims.json").read_text())
    assert {row["id"] for row in claims} == {"order", "gradient", "reversal"}
    assert all(row["n_seeds"] == 2 for row in claims)
    assert all(row["verdict"] in ("holds", "fails", "inconclusive") for row in claims)
    data = xr.open_datatree(folder / "study.nc", engine="netcdf4")
    assert data["narrow/gradient_magnitude"].sizes["seed"] == 2
    data.close()
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"convergence.png", "convergence.pdf", "rates.png"} <= names
    assert (folder / "report.html").stat().st_size < 6e6


def test_overrides_reach_every_run(reproduced):
    runs = [Run.open(path) for path in (reproduced / "runs").iterdir()]
    assert len(runs) == 4
    assert {run.manifest["config"]["model"]["width"] for run in runs} == {8}


@pytest.mark.slow
def test_complete_runs_are_reused(reproduced, capsys):
    before = {p: p.stat().st_mtime_ns for p in (reproduced / "runs").glob("*/run.json")}
    words = ["run", "layer_convergence_bias.fig1a", "--scale", "smoke", "--seeds", "0", "1"]
    assert main([*words, "--out", str(reproduced), "--model.width", "8"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (reproduced / "runs").glob("*/run.json")}


def truncate(run):
    path = sorted((run / "checkpoints").iterdir())[-1]
    path.write_bytes(path.read_bytes()[:100])


def newer(run):
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"format_version": 99}))


@pytest.fixture
def broken(trained, tmp_path):
    """A copy of the trained run without results, to break."""
    import shutil

    shutil.copytree(trained, tmp_path / "broken", ignore=shutil.ignore_patterns("results", ".lock"))
    return tmp_path / "broken"


DAMAGE = {"truncated": (truncate, "truncated"), "newer": (newer, "format version 99")}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_runs_are_said_to_be(broken, capsys, damage, message):
    damage(broken)
    assert main(["measure", "weight_change", str(broken)]) == 2
    assert message in capsys.readouterr().err


BAD = {
    "command": (["trian"], "Did you mean 'train'"),
    "recipe": (["run", "layer_convergence_bias.fig1c"], "Did you mean"),
    "recipe behind options": (
        ["run", "--scale", "smoke", "layer_convergence_bias.fig1c"],
        "unknown recipe 'layer_convergence_bias.fig1c'",
    ),
    "probe behind options": (
        ["measure", "--recompute", "weight_chang", "x"],
        "Did you mean 'weight_change'",
    ),
    "probe": (["measure", "weight_chang", "x"], "Did you mean 'weight_change'"),
    "model": (["train", "--model", "fnc"], "Did you mean 'fcn'"),
    "data set": (["train", "--data", "mnits"], "Did you mean 'mnist'"),
    "optimizer": (["train", "--optimizer", "sdg"], "Did you mean 'sgd'"),
    "no run": (["report", "nowhere"], "holds no run"),
    "no run to start from": (["train", "--start.path", "nowhere"], "nowhere holds no run"),
    "nothing to start from": (["train", "--start.fresh", "output*"], "neither a run nor a path"),
    "cosine": (["train", "--schedule", "cosine", "--milestones", "3"], "does not follow"),
    "warm-up": (["train", "--warmup", "1000"], "warmup is 1000 steps, and the run has 120"),
    "factory": (["train", "--model", "nowhere:model"], "cannot import the model factory"),
    "live trajectory": (["train", "--probes", "convergence"], "needs the finished run"),
    "model of sites": (["list", "sites", "--model", "fnc"], "Did you mean 'fcn'"),
    "data of sites": (["list", "--data", "mnits", "sites"], "Did you mean 'mnist'"),
    "no such site": (["list", "sites", "--linear", "first:9"], "'first:9' matches no activation"),
    "sites on other inputs": (
        ["list", "sites", "--model", f"{__name__}:gated", "--data", "cifar10"],
        "zeros of (2, 3, 32, 32)",
    ),
    "factory of sites": (["list", "sites", "--model", "nowhere:model"], "cannot import"),
    "seed of a recipe": (
        ["run", "layer_convergence_bias.fig1a", "--scale", "smoke", "--seed", "3"],
        "Use --seeds",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYERSCOPE_DATA", raising=False)
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_missing_data_names_both_ways_out(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["train", "--data", "cifar100", "--data-root", str(tmp_path), "--out", str(tmp_path)]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "--data-root" in printed
    assert "HF_HUB_OFFLINE" in printed


def test_a_mistyped_option_suggests_the_right_one(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--model.widht", "8"])
    assert stop.value.code == 2
    assert "--model.width" in capsys.readouterr().err


def test_a_setting_of_the_wrong_type_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--epochs", "many"])
    assert stop.value.code == 2


def test_an_unwritable_folder_is_said_before_training(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["train", *SMALL, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_divergence_stops_training_and_keeps_the_rest(capsys, tmp_path):
    words = ["train", *SMALL, "--optimizer.learning-rate", "1e30", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "not finite" in capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    assert run.status == "diverged"
    assert run.steps[0] == 0
    assert "diverged at step" in run.missing


def model():
    """Factory for the test below."""
    return fcn((4,), 2, depth=1, width=3)


def test_a_run_recorded_elsewhere_needs_its_model_for_gradients(capsys, tmp_path):
    states = {0: model().state_dict(), 1: model().state_dict()}
    Run.from_checkpoints(tmp_path / "run", states, model())
    assert main(["measure", "gradient_magnitude", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert re.search(r"needs .*model", printed)


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "models"]], ids=" ".join)
def test_help_and_lists_are_quick_because_nothing_heavy_is_imported(words):
    code = (
        f"import sys; from layerscope.cli import main; main({words});"
        "heavy = {'torch', 'xarray', 'scipy', 'matplotlib', 'plotly'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


COMMANDS = (
    "train",
    "run",
    "measure",
    "import",
    "quickstart",
    "report",
    "figure",
    "list",
    "list sites",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: layerscope" in capsys.readouterr().out


def test_the_help_of_measuring_names_the_settings_of_the_probe(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["measure", "weight_change", "--help"])
    assert stop.value.code == 0
    assert "--minimum-dimensions" in capsys.readouterr().out


def test_the_help_of_training_names_optimisers_schedules_and_where_to_start(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--optimizer", "rmsprop", "--help"])
    printed = capsys.readouterr().out
    assert "Optimisers: sgd, adam, adamw, adagrad, rmsprop" in printed
    options = (
        "--schedule {step,cosine,plateau}",
        "--plateau.patience",
        "--warmup",
        "--optimizer.smoothing",
    )
    for option in (*options, "--start.path", "--start.step", "--start.fresh"):
        assert option in printed


FINE_TUNING = RunConfig(start=Start(run=RunConfig(epochs=3), fresh=("output*",)))


def test_settings_of_a_recipe_reach_the_run_to_start_from():
    words = ["--epochs", "5", "--start.run.model.depth", "2", "--start.fresh", "output*"]
    found = given_paths(words, FINE_TUNING)
    assert found == ["epochs", "start.fresh", "start.run.model.depth"]
    changed = set_path(FINE_TUNING, "start.run.model.depth", 2)
    assert (get_path(changed, "start.run.model.depth"), changed.model.depth) == (2, 3)
    with pytest.raises(LayerscopeError, match="not every run of this recipe has the setting 'run'"):
        set_path(RunConfig(), "start.run.model.depth", 2)
    assert given_paths(words, RunConfig()) == ["epochs"]


@pytest.mark.data
def test_mnist_from_the_data_root(data_root, tmp_path):
    words = ["train", "--data", "mnist", "--data.limit", "2000", "--data-root", str(data_root)]
    assert main([*words, *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert Run.open(tmp_path / "run").manifest["notes"]["test_error"] < 0.6
    assert torch.isfinite(Run.open(tmp_path / "run").checkpoint(32)["output.bias"]).all()
