"""What a batch means: how a model runs on it, what the loss is, which examples are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from layerscope.errors import LayerscopeError


@dataclass(frozen=True)
class Task:
    """Four functions that are all the library needs to know of a problem.

    Attributes:
        forward: ``(model, batch) -> outputs``.
        loss: ``(outputs, batch) -> scalar``, the mean over the batch, differentiable.
        losses: ``(outputs, batch) -> (examples,)``, one loss per example.
        correct: ``(outputs, batch) -> (examples,)`` booleans; None where it has no meaning.
        name: Shown in reports.
    """

    forward: Callable[[nn.Module, Any], Any]
    loss: Callable[[Any, Any], Tensor]
    losses: Callable[[Any, Any], Tensor]
    correct: Callable[[Any, Any], Tensor] | None = None
    name: str = "custom"

    @staticmethod
    def classification() -> Task:
        """Batches ``(inputs, labels)``, outputs are logits (examples, classes), cross-entropy."""
        return Task(_pair_forward, _cross_entropy, _cross_entropies, _argmax, "classification")

    @staticmethod
    def regression() -> Task:
        """Batches ``(inputs, targets)``, mean squared error over examples and outputs."""
        return Task(_pair_forward, _squared_error, _squared_errors, None, "regression")

    @staticmethod
    def language_model() -> Task:
        """Dict batches as causal language models of Transformers take them.

        The model is called with the whole dict and must return ``logits`` (examples, positions,
        vocabulary); token ``t`` is predicted at position ``t - 1``, labels of -100 do not count.
        ``labels`` default to ``input_ids``. ``correct`` and ``losses`` are per counted token and
        per example.
        """
        return Task(_dict_forward, _token_loss, _token_losses, _token_correct, "language model")


def _pair_forward(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


def _cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch[1])


def _cross_entropies(outputs: Tensor, batch: Any) -> Tensor:
    largest = int(batch[1].max())
    if largest >= outputs.shape[1]:
        raise LayerscopeError(
            f"class {largest} among the labels, but the model has {outputs.shape[1]} outputs.",
            "Test the model on the data set it was trained on.",
        )
    return F.cross_entropy(outputs, batch[1], reduction="none")


def _argmax(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.argmax(1) == batch[1]) & outputs.isfinite().all(1)


def _same_shape(outputs: Tensor, targets: Tensor) -> None:
    """Refuse what would broadcast: (n,) against (n, 1) averages n squared differences."""
    if outputs.shape != targets.shape:
        raise LayerscopeError(
            f"outputs of shape {tuple(outputs.shape)} against targets of {tuple(targets.shape)}.",
            "Give both the same shape, e.g. targets[:, None] for a model with one output.",
        )


def _squared_error(outputs: Tensor, batch: Any) -> Tensor:
    _same_shape(outputs, batch[1])
    return F.mse_loss(outputs, batch[1])


def _squared_errors(outputs: Tensor, batch: Any) -> Tensor:
    _same_shape(outputs, batch[1])
    return F.mse_loss(outputs, batch[1], reduction="none").flatten(1).mean(1)


def _dict_forward(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).logits


def _tokens(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    labels = batch.get("labels", batch["input_ids"])
    return outputs[:, :-1].transpose(1, 2), labels[:, 1:]


def _token_loss(outputs: Tensor, batch: Any) -> Tensor:
    logits, labels = _tokens(outputs, batch)
    return F.cross_entropy(logits, labels)


def _token_losses(outputs: Tensor, batch: Any) -> Tensor:
    logits, labels = _tokens(outputs, batch)
    counted = (labels != -100).sum(1)
    return F.cross_entropy(logits, labels, reduction="none").sum(1) / counted


def _token_correct(outputs: Tensor, batch: Any) -> Tensor:
    logits, labels = _tokens(outputs, batch)
    counted = labels != -100
    return (logits.argmax(1) == labels)[counted]


class Program(nn.Module):
    """A model and its task as one module from a batch to the mean loss.

    Called inside `layerscope.isolation.isolated` it gives the loss at any weights.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        """Mean loss on the batch."""
        return self.task.loss(self.task.forward(self.model, batch), batch)


def as_tree(batch: Any) -> Any:
    """The batch, or a dict of it where it is another mapping, e.g. Transformers' BatchEncoding."""
    known = isinstance(batch, dict) or not isinstance(batch, Mapping)
    return batch if known or type(batch) in pytree.SUPPORTED_NODES else dict(batch)


def examples(batch: Any) -> int:
    """Number of examples in a batch: the rows that all of its tensors have.

    Raises:
        LayerscopeError: Its tensors have different numbers of rows.
    """
    sizes = {
        leaf.shape[0] for leaf in pytree.tree_leaves(as_tree(batch)) if isinstance(leaf, Tensor)
    }
    if len(sizes) != 1:
        raise LayerscopeError(
            f"the tensors of a batch have {sorted(sizes)} rows.",
            "Give every tensor of a batch one row per example.",
        )
    return sizes.pop()


def rows(batch: Any, start: int, stop: int) -> Any:
    """Examples ``start`` to ``stop`` of a batch."""

    def cut(tree: Any) -> Any:
        return pytree.tree_map(lambda x: x[start:stop] if isinstance(x, Tensor) else x, tree)

    tree = as_tree(batch)
    return cut(batch) if tree is batch else type(batch)(cut(tree))


def move(batch: Any, device: torch.device | str) -> Any:
    """A batch of tensors, tuples, lists and dicts on another device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if as_tree(batch) is not batch:
        return type(batch)(move(as_tree(batch), device))
    if isinstance(batch, tuple | list):
        return type(batch)(move(value, device) for value in batch)
    return batch
