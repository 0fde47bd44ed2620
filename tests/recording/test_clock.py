"""Steps counted by hooks of the optimiser."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from tests.cases import FCN
from torch import nn
from torch.optim.lr_scheduler import StepLR

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.task import Task
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import every

TASK = Task.classification()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)


def loss_of(net, seed):
    inputs, labels = batch(seed)
    return nn.functional.cross_entropy(net(inputs), labels)


def step(net, optimizer, seed, scale=1.0):
    optimizer.zero_grad()
    loss = loss_of(net, seed) * scale
    loss.backward()
    optimizer.step()
    return loss.detach()


def recording(net, path, optimizer, **options):
    options = {"probes": [WeightChange()], "measure": every(1)} | options
    return Recorder(net, path, optimizer=optimizer, **options)


def counted(net, path, optimizer, train, **options):
    """How many steps a recorder counts of a training, and its run."""
    with recording(net, path, optimizer, **options) as recorder:
        train()
    return recorder.current_step, recorder.run


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, **options)


# As with recorder.step()


def test_results_and_weights_are_those_of_a_loop_that_says_its_steps(tmp_path):
    probes = [WeightChange(), GradientMagnitude(), DistanceFromInitialisation()]
    options = {"probes": probes, "task": TASK, "batch": batch(0), "checkpoints": every(2)}
    nets = [model() for _ in range(3)]
    said, hooked, alone = (sgd(net) for net in nets)
    with Recorder(nets[0], tmp_path / "a", measure=every(1), **options) as recorder:
        for seed in range(5):
            recorder.step(loss=step(nets[0], said, seed))
    with recording(nets[1], tmp_path / "b", hooked, **options) as recorder:
        for seed in range(5):
            recorder.add_loss(loss_of(nets[1], seed))
            step(nets[1], hooked, seed)
    for seed in range(5):
        loss_of(nets[2], seed)
        step(nets[2], alone, seed)
    a, b = Run.open(tmp_path / "a"), Run.open(tmp_path / "b")
    assert a.steps == b.steps == [0, 2, 4, 5]
    assert a.result_keys == b.result_keys
    for key in ("weight_change", "gradient_magnitude", "distance_from_initialisation"):
        assert a.results(key)["step"].values.tolist() == b.results(key)["step"].values.tolist()
    assert a.results("training").equals(b.results("training"))
    for name, value in nets[2].state_dict().items():
        assert torch.equal(nets[1].state_dict()[name], value)


def test_the_optimiser_is_left_as_found(tmp_path):
    net = model()
    optimizer = sgd(net)
    counted(net, tmp_path / "a", optimizer, lambda: step(net, optimizer, 0))
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


# What is a step


def test_accumulated_gradients_are_one_step(tmp_path):
    net = model()
    optimizer = sgd(net)

    def train():
        for seed in range(6):
            (loss_of(net, seed) / 2).backward()
            if seed % 2:
                optimizer.step()
                optimizer.zero_grad()

    assert counted(net, tmp_path / "a", optimizer, train)[0] == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(tmp_path, fused):
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu")

    def train():
        for seed, scale in enumerate((1.0, float("inf"), 1.0)):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, seed) * scale).backward()
            scaler.step(optimizer)
            scaler.update()

    assert counted(net, tmp_path / "a", optimizer, train)[0] == 2


def test_a_closure_counts_once(tmp_path):
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=4)
    evaluations = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net, 0)
        loss.backward()
        evaluations.append(loss.item())
        return loss

    assert counted(net, tmp_path / "a", optimizer, lambda: optimizer.step(closure))[0] == 1
    assert len(evaluations) > 1


class Wrapping(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


def test_a_step_inside_that_of_its_own_class_counts_once(tmp_path):
    sgd(model())  # whose making wraps the step of the class above, too
    net = model()
    optimizer = Wrapping(net.parameters(), 0.1)

    def train():
        for seed in range(3):
            step(net, optimizer, seed)

    assert counted(net, tmp_path / "a", optimizer, train)[0] == 3


def test_a_step_that_fails_does_not_count_and_the_next_does(tmp_path):
    net = model()
    optimizer = sgd(net)

    def fail():
        raise MemoryError

    def train():
        with pytest.raises(MemoryError):
            optimizer.step(fail)
        step(net, optimizer, 0)

    assert counted(net, tmp_path / "a", optimizer, train)[0] == 1


def test_a_scheduler_changes_nothing(tmp_path):
    net = model()
    optimizer = sgd(net)
    with recording(net, tmp_path / "a", optimizer) as recorder:
        scheduler = StepLR(optimizer, 1)  # which wraps step of its own
        for seed in range(3):
            step(net, optimizer, seed)
            scheduler.step()
    assert recorder.current_step == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_a_compiled_step_counts(tmp_path):
    nets = model(), model()
    torch.compiler.reset()

    def train(net):
        optimizer = sgd(net)
        compiled = torch.compile(lambda: optimizer.step(), backend="aot_eager")

        def loop():
            for seed in range(3):
                optimizer.zero_grad()
                loss_of(net, seed).backward()
                compiled()

        return optimizer, loop

    optimizer, loop = train(nets[0])
    assert counted(nets[0], tmp_path / "a", optimizer, loop)[0] == 3
    train(nets[1])[1]()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    torch.compiler.reset()


# Several optimisers, and wrapped ones


def test_several_are_named_and_the_last_one_counts(tmp_path):
    net = model()
    first, last = sgd(net[0]), torch.optim.Adam(net[3].parameters())

    def train():
        for seed in range(4):
            step(net, first, seed)
            if seed % 2:
                step(net, last, seed)

    steps, run = counted(net, tmp_path / "a", {"features": first, "head": last}, train)
    assert steps == 2
    found = run.manifest["notes"]["optimizers"]
    assert {name: (one["class"], one["steps"]) for name, one in found.items()} == {
        "features": ("SGD", 4),
        "head": ("Adam", 2),
    }
    assert found["head"]["n_parameters"] == 8 * 3 + 3


def test_several_without_names_are_an_error(tmp_path):
    net = model()
    with pytest.raises(LayerscopeError, match="2 optimisers are given without names"):
        recording(net, tmp_path / "a", [sgd(net), sgd(net)])


def test_one_under_two_names_is_an_error(tmp_path):
    net = model()
    optimizer = sgd(net)
    with pytest.raises(LayerscopeError, match="two names"):
        recording(net, tmp_path / "a", {"a": optimizer, "b": optimizer})


def test_that_of_another_model_is_an_error(tmp_path):
    with pytest.raises(LayerscopeError, match="steps no parameter of Sequential"):
        recording(model(), tmp_path / "a", sgd(model()))


def test_what_is_none_is_an_error(tmp_path):
    with pytest.raises(LayerscopeError, match=r"str is no torch\.optim\.Optimizer"):
        recording(model(), tmp_path / "a", "sgd")


def test_that_of_fabric_is_looked_through(tmp_path):
    net = model()
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(net, sgd(net))

    def train():
        for seed in range(3):
            optimizer.zero_grad()
            fabric.backward(loss_of(wrapped, seed))
            optimizer.step()

    assert counted(wrapped, tmp_path / "a", optimizer, train)[0] == 3


# Losses


def test_saying_a_step_that_is_counted_is_an_error(tmp_path):
    net = model()
    optimizer = sgd(net)
    with recording(net, tmp_path / "a", optimizer) as recorder:
        with pytest.raises(LayerscopeError, match="counts the steps"):
            recorder.step()
        assert recorder.current_step == 0


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    net = model()
    optimizer = sgd(net)

    def train(recorder):
        for value in (1.0, float("nan")):
            recorder.add_loss(value)
            step(net, optimizer, 0)

    with pytest.raises(DivergedError), recording(net, tmp_path / "a", optimizer) as recorder:
        train(recorder)
    run = Run.open(tmp_path / "a")
    assert run.status == "diverged"
    assert run.results("weight_change")["step"].values.tolist() == [1]


# Without a with statement


def test_one_line_opens_before_the_first_step(tmp_path):
    net = model()
    optimizer = sgd(net)
    initial = net[0].weight.detach().clone()
    recorder = Recorder(net, tmp_path / "a", optimizer=optimizer, probes=[WeightChange()])
    assert not (tmp_path / "a").exists()
    for seed in range(12):
        step(net, optimizer, seed)
    assert Run.open(tmp_path / "a").status == "running"
    recorder.close()
    step(net, optimizer, 12)
    recorder.close()
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps) == ("complete", [0, 12])
    assert torch.equal(run.checkpoint(0)["0.weight"], initial)
    found = run.results("weight_change")["step"].values.tolist()
    assert found == [1, 2, 3, 4, 5, 6, 8, 10]  # ten in each factor of ten


def test_what_nothing_refers_to_is_closed(tmp_path):
    net = model()

    def train():
        optimizer = sgd(net)
        recording(net, tmp_path / "a", optimizer)
        step(net, optimizer, 0)

    train()
    gc.collect()
    assert Run.open(tmp_path / "a").status == "complete"


def test_what_was_closed_does_not_open_again(tmp_path):
    net = model()
    recorder = recording(net, tmp_path / "a", sgd(net))
    recorder.open()
    with pytest.raises(LayerscopeError, match="is open"):
        recorder.open()
    recorder.close()
    with pytest.raises(LayerscopeError, match="was closed"):
        recorder.open()


SCRIPT = """
import sys, torch
from layerscope import Recorder, WeightChange
from layerscope.schedule import every
net = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
Recorder(net, sys.argv[1], optimizer=optimizer, probes=[WeightChange()], measure=every(1))
for _ in range(4):
    optimizer.zero_grad()
    net(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
{end}
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", "complete"), ("raise KeyError('lost')", "interrupted")]
)
def test_the_end_of_the_process_closes_it(tmp_path, end, status):
    words = [sys.executable, "-c", SCRIPT.format(end=end), str(tmp_path / "a")]
    subprocess.run(words, check=False, capture_output=True, timeout=120)
    run = Run.open(tmp_path / "a")
    assert run.status == status
    assert run.results("weight_change")["step"].values.tolist() == [1, 2, 3, 4]
    assert "lost" in run.manifest["notes"].get("error", "lost")
    assert ("error" in run.manifest["notes"]) == (status == "interrupted")


def test_the_case_of_an_epoch_has_its_own_defaults(tmp_path):
    net = FCN.model()
    optimizer = sgd(net)
    options = {"steps_per_epoch": 2, "measure": None, "checkpoints": None}

    def train():
        for seed in range(4):
            optimizer.zero_grad()
            FCN.task.loss(FCN.task.forward(net, FCN.batch(seed)), FCN.batch(seed)).backward()
            optimizer.step()

    _, run = counted(net, tmp_path / "a", optimizer, train, **options)
    assert run.steps == [0, 2, 4]
    assert run.results("weight_change")["step"].values.tolist() == [2, 4]


# Mistakes


def test_what_cannot_open_leaves_the_training_alone(tmp_path):
    net = model()
    optimizer = sgd(net)
    counted(net, tmp_path / "a", optimizer, lambda: step(net, optimizer, 0))
    with pytest.raises(LayerscopeError, match="already holds a run"):
        recording(net, tmp_path / "a", optimizer).open()
    assert not optimizer._optimizer_step_post_hooks
    step(net, optimizer, 1)


def test_a_run_of_another_model_is_not_resumed(tmp_path):
    net = model()
    optimizer = sgd(net)
    with pytest.raises(KeyError), recording(net, tmp_path / "a", optimizer):
        raise KeyError
    other = nn.Linear(6, 3)
    with pytest.raises(LayerscopeError, match="is not that of the model"):
        recording(other, tmp_path / "a", sgd(other), resume=True).open(0)
    assert Run.open(tmp_path / "a").status == "interrupted"


def interrupted(path):
    """A run that was interrupted after two steps, and what its recorder left."""
    net = model()
    optimizer = sgd(net)
    with pytest.raises(KeyError), recording(net, path, optimizer) as recorder:  # noqa: PT012
        step(net, optimizer, 0)
        step(net, optimizer, 1)
        raise KeyError
    return net, optimizer, recorder


def test_nothing_is_resumed_that_does_not_say_where(tmp_path):
    net, optimizer, _ = interrupted(tmp_path / "a")
    with pytest.raises(LayerscopeError, match="nothing says at which step"):
        recording(net, tmp_path / "a", optimizer, resume=True).open()
    assert Run.open(tmp_path / "a").status == "interrupted"


@pytest.mark.parametrize("how", ["state", "step"])
def test_steps_of_the_optimiser_are_counted_on(how, tmp_path):
    net, optimizer, before = interrupted(tmp_path / "a")
    recorder = recording(net, tmp_path / "a", optimizer, resume=True)
    if how == "state":
        recorder.load_state_dict(before.state_dict())
        recorder.open()
    else:
        recorder.open(2)
    step(net, optimizer, 2)
    recorder.close()
    assert recorder.current_step == 3
    assert recorder.run.manifest["notes"]["optimizers"]["optimizer"]["steps"] == 3


def test_metadata_of_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(LayerscopeError, match="'epochs'"):
        Recorder(model(), tmp_path / "a", metadata={"epochs": 3})


FORK = """import os
if os.fork() == 0:
    sys.exit()
os.wait()
from layerscope import Run
print(Run.open(sys.argv[1]).status)"""


def test_a_fork_that_ends_closes_nothing(tmp_path):
    words = [sys.executable, "-c", SCRIPT.format(end=FORK), str(tmp_path / "a")]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["running"]
    assert Run.open(tmp_path / "a").status == "complete"


@pytest.mark.parametrize("loss", ["x", torch.ones(2)])
def test_a_loss_is_a_number(tmp_path, loss):
    net = model()
    with (
        recording(net, tmp_path / "a", sgd(net)) as recorder,
        pytest.raises(LayerscopeError, match="not a number"),
    ):
        recorder.add_loss(loss)


def test_numbers_of_numpy_are_logged_and_others_are_not(tmp_path):
    net = model()
    with recording(net, tmp_path / "a", sgd(net)) as recorder:
        recorder.log(a=np.float32(1.5), b=torch.tensor([2.0]))
        for name, value in (("c", torch.ones(2)), ("step", 1.0), ("a/b", 1.0)):
            with pytest.raises(LayerscopeError, match=name):
                recorder.log(**{name: value})
    found = Run.open(tmp_path / "a").results("evaluation")
    assert (found["a"].item(), found["b"].item()) == (1.5, 2.0)
    with pytest.raises(LayerscopeError, match="was closed"):
        recorder.log(a=1.0)
