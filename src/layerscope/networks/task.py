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

IGNORED = -100  # what PyTorch and Transformers leave out of a cross-entropy


@dataclass(frozen=True)
class Task:
    """Four functions that are all the library needs to know of a problem.

    Attributes:
        forward: ``(model, batch) -> outputs``.
        loss: ``(outputs, batch) -> scalar``, the mean over the batch, differentiable.
        losses: ``(outputs, batch) -> (examples,)``, one loss per example that counts. Which count
            may depend on the batch, never on the outputs, so that models are compared pairwise.
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
        """Batches ``(inputs, labels)``, outputs are logits (examples, classes), cross-entropy.

        Labels are class numbers (examples,). Those of -100 do not count: ``loss`` is the mean over
        the others, 0 with gradient 0 where there are none, and ``losses`` and ``correct`` have one
        entry per counted example. With logits (examples, classes, ...) and labels (examples, ...)
        every place is an example.
        """
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
        ``labels`` default to ``input_ids``. ``loss`` is the mean over counted tokens (0 without
        any), ``correct`` is per counted token and ``losses`` per example that has some.
        """
        return Task(_dict_forward, _token_loss, _token_losses, _token_correct, "language model")


def _pair(batch: Any, least: int = 2) -> Any:
    """A batch, if it is a tuple or list of at least so many entries."""
    if isinstance(batch, tuple | list) and len(batch) >= least:
        return batch
    found = type(batch).__name__
    if isinstance(batch, tuple | list):
        found += f" of {len(batch)}"
    raise LayerscopeError(
        f"the batch is a {found}, not a pair.",
        "Give batches (inputs, labels) or (inputs, targets), or say what this kind of batch means: "
        "Task(forward=..., loss=..., losses=...).",
    )


def _pair_forward(model: nn.Module, batch: Any) -> Any:
    return model(_pair(batch, least=1)[0])


def _described(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _check_outputs(outputs: Any) -> None:
    if not (isinstance(outputs, Tensor) and outputs.is_floating_point()):
        raise LayerscopeError(
            f"the model's outputs are {_described(outputs)}, not a tensor of real numbers.",
            "Let the task return one: dataclasses.replace(task, forward=...), e.g. with "
            "lambda model, batch: model(batch[0]).logits.",
        )


def _check_labels(outputs: Tensor, labels: Any, shape: tuple[int, ...] | None, layout: str) -> None:
    """Refuse labels that are no class numbers, or not of the shape that the outputs ask for.

    Args:
        outputs: The logits.
        labels: What should be class numbers.
        shape: Their shape; None where the outputs themselves have the wrong number of dimensions.
        layout: The dimensions of the outputs in words.
    """
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.uint8):
        raise LayerscopeError(
            f"the labels are {_described(labels)}, not class numbers of torch.int64.",
            "Give a tensor of class numbers: labels.long(), or labels.argmax(1) for soft or "
            "one-hot labels.",
        )
    if labels.shape != shape:
        wanted = f"labels of the same examples, {shape}" if shape else "outputs of this kind"
        raise LayerscopeError(
            f"labels of shape {tuple(labels.shape)} against outputs of shape "
            f"{tuple(outputs.shape)}.",
            f"Outputs are {layout}; give {wanted}, or labels.argmax(1) for one-hot labels.",
        )


def _labelled(outputs: Any, batch: Any) -> Tensor:
    """The labels of a pair, as class numbers that fit the outputs."""
    labels = _pair(batch)[1]
    _check_outputs(outputs)
    shape = (*outputs.shape[:1], *outputs.shape[2:]) if outputs.ndim > 1 else None
    _check_labels(outputs, labels, shape, "(examples, classes)")
    return labels.long()


def _check_classes(outputs: Tensor, labels: Tensor) -> None:
    classes = outputs.shape[1]
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise LayerscopeError(
            f"class {int(wrong.max())} among the labels, but the model has {classes} outputs.",
            "Test the model on the data set it was trained on; labels that are not to count "
            f"are {IGNORED}.",
        )


def _entropy(outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    try:
        return F.cross_entropy(outputs, labels, reduction=reduction)
    except IndexError:  # on processors only: elsewhere looking at labels would cost a wait
        _check_classes(outputs, labels)
        raise


def _mean_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that count; of none it is 0, not the NaN of 0 / 0."""
    return torch.where((labels != IGNORED).any(), _entropy(outputs, labels), 0.0)


def _counted(values: Tensor, labels: Tensor) -> Tensor:
    """The values (examples,) at the labels that count."""
    counted = labels != IGNORED
    return values.flatten() if counted.all() else values[counted]


def _cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return _mean_entropy(outputs, _labelled(outputs, batch))


def _cross_entropies(outputs: Tensor, batch: Any) -> Tensor:
    labels = _labelled(outputs, batch)
    _check_classes(outputs, labels)
    return _counted(_entropy(outputs, labels, "none"), labels)


def _argmax(outputs: Tensor, batch: Any) -> Tensor:
    labels = _labelled(outputs, batch)
    return _counted((outputs.argmax(1) == labels) & outputs.isfinite().all(1), labels)


def _targets(outputs: Any, batch: Any) -> Tensor:
    """The targets of a pair. Refuses what would broadcast: (n,) against (n, 1) averages n^2."""
    targets = _pair(batch)[1]
    _check_outputs(outputs)
    if not isinstance(targets, Tensor) or targets.is_complex():
        raise LayerscopeError(
            f"the targets are {_described(targets)}, not a tensor of real numbers.",
            "Give a tensor of the shape of the outputs.",
        )
    if outputs.shape != targets.shape:
        raise LayerscopeError(
            f"outputs of shape {tuple(outputs.shape)} against targets of {tuple(targets.shape)}.",
            "Give both the same shape, e.g. targets[:, None] for a model with one output.",
        )
    return targets


def _squared_error(outputs: Tensor, batch: Any) -> Tensor:
    return F.mse_loss(outputs, _targets(outputs, batch))


def _squared_errors(outputs: Tensor, batch: Any) -> Tensor:
    targets = _targets(outputs, batch)
    return F.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)


def _named(batch: Any) -> Mapping[str, Any]:
    if not isinstance(batch, Mapping):
        raise LayerscopeError(
            f"the batch is a {type(batch).__name__}, not a dict of named tensors.",
            'Give a dict such as {"input_ids": ..., "labels": ...}, or use Task.classification() '
            "for pairs.",
        )
    return batch


def _dict_forward(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(**_named(batch))
    logits = getattr(outputs, "logits", None)  # what Transformers return; other models may not
    if not isinstance(logits, Tensor):
        raise LayerscopeError(
            f"{type(model).__name__} returned a {type(outputs).__name__}, which has no logits.",
            "Use a causal language model with its head, or say where the logits are: "
            "dataclasses.replace(task, forward=lambda model, batch: ...).",
        )
    return logits


def _tokens(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits (examples, vocabulary, positions - 1) and the tokens that they predict."""
    batch = _named(batch)
    labels = batch["labels"] if batch.get("labels") is not None else batch.get("input_ids")
    if labels is None:
        raise LayerscopeError(
            f"the batch has the entries {', '.join(map(str, batch))}, neither labels nor "
            "input_ids.",
            "Add the labels: the token that stands at every position, -100 where it does not "
            "count.",
        )
    _check_outputs(outputs)
    shape = tuple(outputs.shape[:2]) if outputs.ndim == 3 else None
    _check_labels(outputs, labels, shape, "(examples, positions, vocabulary)")
    return outputs[:, :-1].transpose(1, 2), labels[:, 1:].long()


def _token_loss(outputs: Tensor, batch: Any) -> Tensor:
    return _mean_entropy(*_tokens(outputs, batch))


def _token_losses(outputs: Tensor, batch: Any) -> Tensor:
    logits, labels = _tokens(outputs, batch)
    counted = (labels != IGNORED).sum(1)
    sums = _entropy(logits, labels, "none").sum(1)
    some = counted > 0  # dividing by 0 would make gradients NaN, also of what is left out after
    return sums / counted if some.all() else sums[some] / counted[some]


def _token_correct(outputs: Tensor, batch: Any) -> Tensor:
    logits, labels = _tokens(outputs, batch)
    return _counted(logits.argmax(1) == labels, labels)


def categorical(task: Task, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor] | None:
    """Logits (examples, classes, ...) and labels (examples, ...) behind a mean cross-entropy.

    Returns:
        Logits as they follow from the outputs, and labels, `IGNORED` where they do not count; None
        where the task's loss is not that of `Task.classification` or `Task.language_model`.
    """
    if task.loss is _cross_entropy:
        return outputs, _labelled(outputs, batch)
    return _tokens(outputs, batch) if task.loss is _token_loss else None


def is_squared(task: Task) -> bool:
    """Whether the task's loss is that of `Task.regression`."""
    return task.loss is _squared_error


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


def first_examples(batch: Any, most: int) -> Any:
    """The first examples of a batch, all if there are no more."""
    return rows(batch, 0, most) if examples(batch) > most else batch


def move(batch: Any, device: torch.device | str) -> Any:
    """A batch of tensors, (named) tuples, lists and mappings on another device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if as_tree(batch) is not batch:
        return type(batch)(move(as_tree(batch), device))
    if isinstance(batch, tuple | list):
        moved = (move(value, device) for value in batch)
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
