"""Record what a Lightning ``Trainer`` trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from layerscope.integrations.attached import Attached, steps_in_epoch
from layerscope.integrations.libraries import missing
from layerscope.networks.task import Task
from layerscope.recording.recorder import Recorder

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("lightning", "LayerscopeCallback", error) from error


class LayerscopeCallback(Callback):
    """Record what a Lightning ``Trainer`` trains.

    ::

        callback = LayerscopeCallback("runs/x", probes=[WeightChange()])
        Trainer(callbacks=[callback], max_epochs=3).fit(module, loader)

    Steps are those of the optimiser, counted by a hook: neither micro-batches of an accumulated
    step count nor steps that a gradient scaler skips. Several optimisers are named
    ``optimizer0``, ``optimizer1``, ... in their order; the steps of the last count. The losses of
    which gradients are taken are kept as ``training``, and what the module has logged by the end
    of an epoch as ``evaluation``. An exception closes the run as interrupted. The trained weights
    are equal bit for bit with and without it.

    Args:
        path: Folder for the run; must not hold one, unless the trainer resumes.
        batch: The fixed batch for probes that evaluate the model; by default the first one of the
            training data, see `layerscope.integrations.first_batch.first_batch`.
        task: What a batch means, e.g. ``Task.classification()`` where ``module(inputs)`` gives
            logits; for anything else a `Task` with a ``forward`` of its own.
        options: Further arguments of `layerscope.Recorder`: ``probes``, ``measure``,
            ``checkpoints``, ``layers``, ...

    Raises:
        LayerscopeError: A recorder has no such argument; when training starts, as `Recorder`.
    """

    def __init__(
        self, path: str | Path, *, batch: Any = None, task: Task | None = None, **options: Any
    ) -> None:
        self._attached = Attached(path, batch, task, options)

    @property
    def recorder(self) -> Recorder:
        """The recorder; its ``run`` is the run on disk.

        Raises:
            LayerscopeError: No training has started.
        """
        return self._attached.recorder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the recorder."""
        found = trainer.optimizers
        several = {f"optimizer{i}": optimizer for i, optimizer in enumerate(found)}
        total = trainer.estimated_stepping_batches
        self._attached.begin(
            pl_module,
            found[0] if len(found) == 1 else several,
            trainer.train_dataloader,
            step=trainer.global_step,
            steps_per_epoch=steps_in_epoch(
                trainer.num_training_batches, trainer.accumulate_grad_batches
            ),
            metadata={
                "total_steps": int(total) if 0 < total < float("inf") else None,
                "device": str(pl_module.device),
            },
        )

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss of a micro-batch, as ``training_step`` returned it."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        divided = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        scale = 1.0 if scaler is None else scaler.get_scale()
        self.recorder.add_loss(loss.detach() * (divided / scale))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the module has logged."""
        self._attached.log(trainer.logged_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the recorder."""
        self._attached.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the recorder: the run was interrupted."""
        self._attached.end(exception)
