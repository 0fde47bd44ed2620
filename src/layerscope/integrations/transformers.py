"""Record what a ``transformers.Trainer`` trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerscope.integrations.attached import Attached, steps_in_epoch
from layerscope.integrations.libraries import missing
from layerscope.networks.task import Task
from layerscope.recording.recorder import Recorder
from layerscope.schedule import never

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", "LayerscopeCallback", error) from error


class LayerscopeCallback(TrainerCallback):
    """Record what a ``transformers.Trainer`` trains.

    ::

        callback = LayerscopeCallback("runs/x", probes=[WeightChange()])
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()

    Steps are those of the optimiser, counted by a hook: neither micro-batches of an accumulated
    step count nor steps that a gradient scaler skips. What the trainer logs (``loss``,
    ``learning_rate``, ``grad_norm``, evaluations) is kept under ``evaluation``. Where the trainer
    resumes from a checkpoint the run in the folder goes on. The trained weights are equal bit for
    bit with and without it.

    Args:
        path: Folder for the run; must not hold one, unless the trainer resumes.
        batch: The fixed batch for probes that evaluate the model; by default the first one of the
            training data, see `layerscope.integrations.first_batch.first_batch`.
        task: What a batch means, e.g. ``Task.language_model()``.
        refer: Keep no weights, and refer to the checkpoints that the trainer keeps, where they
            lie: those that it deletes (``save_total_limit``) are gone. The last step has one only
            if the trainer saves it.
        options: Further arguments of `layerscope.Recorder`: ``probes``, ``measure``,
            ``checkpoints``, ``layers``, ...

    Raises:
        LayerscopeError: A recorder has no such argument; when training starts, as `Recorder`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        batch: Any = None,
        task: Task | None = None,
        refer: bool = False,
        **options: Any,
    ) -> None:
        if refer:
            options.setdefault("checkpoints", never())
        self._refer = refer
        self._attached = Attached(path, batch, task, options)

    @property
    def recorder(self) -> Recorder:
        """The recorder; its ``run`` is the run on disk.

        Raises:
            LayerscopeError: No training has started.
        """
        return self._attached.recorder

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Open the recorder."""
        self._attached.begin(
            model,
            optimizer,
            train_dataloader,
            step=state.global_step,
            steps_per_epoch=steps_in_epoch(train_dataloader, args.gradient_accumulation_steps),
            metadata={
                "seed": args.seed,
                "total_steps": state.max_steps,
                "device": str(args.device),
            },
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the numbers that the trainer logs."""
        self._attached.log(logs or {})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refer to what the trainer has just kept."""
        if self._refer:
            self._attached.refer(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the recorder."""
        self._attached.end()
