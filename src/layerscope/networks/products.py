"""Where a model's weights meet what they multiply, seen while it runs as it is.

A torch function mode sees every call that a weight takes part in, whether a module or a function
makes it: linear layers, convolutions, the projections inside of attention, embeddings, the affine
part of normalisations. Weights are known by their identity, also through views of them, so that
tied and shared ones are found whoever uses them.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layerscope.networks.names import every_tensor, named_modules

Kind = Literal["linear", "convolution", "embedding", "scale"]
CONVOLUTIONS = {
    f"conv{transposed}{n}d": (n, bool(transposed))
    for n in (1, 2, 3)
    for transposed in ("", "_transpose")
}
NORMALISATIONS = ("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm")
MULTIPLICATIONS = ("mul", "multiply", "__mul__", "__rmul__")
OPENED = (
    F.multi_head_attention_forward,
    F.embedding,
    F.batch_norm,
    F.instance_norm,
    F.layer_norm,
    F.group_norm,
    F.rms_norm,
)
"""Functions written in Python whose calls are looked at."""


@dataclass(frozen=True)
class Use:
    """A weight in a role; two calls with equal uses are two uses of one matrix.

    Attributes:
        weight: Name of the parameter. Of a weight that a module derives from its parameters, as
            weight normalisation does, the largest of them.
        kind: What it does; the affine part of a normalisation is a scale.
        inputs: Which dimension of the matrix meets what enters: 1 for the weight of a linear layer,
            0 where it is used the other way round, e.g. for decoding what it encoded.
        start: Where in the parameter the part begins that is used; 0 for all of it.
        size: Entries of this part.
        shift: Name of the parameter that is added to a scale.
        owner: The module that derives the matrix from its parameters; empty for a parameter.
    """

    weight: str
    kind: Kind
    inputs: int = 1
    start: int = 0
    size: int = 0
    shift: str = ""
    owner: str = ""


@dataclass(frozen=True)
class Meeting:
    """One call in which a weight takes part.

    Attributes:
        use: Which weight, and how.
        name: The parameter's name in the module that runs, if that has it: tied ones have several.
        input: What it meets; indices for an embedding; what was normalised, for a scale.
        output: The product, attached to the graph, as it is before anything changes it in place.
        settings: Of a convolution the arguments ``stride``, ``padding``, ``dilation``, ``groups``,
            and ``size`` of the filter and ``transposed``; of an embedding ``features`` and
            ``padding``; of a scale its ``shape``, and ``channels`` if it stands along the second
            dimension and not the last.
    """

    use: Use
    name: str
    input: Tensor
    output: Tensor
    settings: Mapping[str, Any]


Visit = Callable[[Meeting], None]
PassBy = Callable[[str, str], object]


@contextlib.contextmanager
def meeting(
    model: nn.Module, visit: Visit, pass_by: PassBy | None = None
) -> Iterator[list[Tensor]]:
    """Look at every product of a weight with what it meets, inside `isolated`.

    Weights take no part in derivatives: what is differentiated are outputs, from the first one on.
    That saves a third of a backward pass.

    Args:
        model: The module that runs inside, without wrappers.
        visit: Called for each as it happens.
        pass_by: Called with the name of a parameter and of the function in which it takes part, for
            matrices that take part in something else.

    Yields:
        The outputs on which all others depend; filled while the model runs.
    """
    seen = _Seen(model, visit, pass_by)
    with contextlib.ExitStack() as stack:
        for name, module in named_modules(model):
            before = module.register_forward_pre_hook(partial(seen.enter, name), prepend=True)
            after = module.register_forward_hook(seen.leave, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(seen)
        stack.callback(seen.starts.clear)
        yield seen.starts


class _Seen(TorchFunctionMode):
    """Looks at the functions of torch that are called."""

    def __init__(self, model: nn.Module, visit: Visit, pass_by: PassBy | None) -> None:
        super().__init__()
        self._known = {
            id(p): (name, p)
            for name, p in every_tensor(model).items()
            if isinstance(p, nn.Parameter)
        }
        self._modules = dict(named_modules(model))
        self._visit = visit
        self._pass_by = pass_by
        self._stack: list[str] = []
        self.starts: list[Tensor] = []

    def enter(self, name: str, *_: Any) -> None:
        """A module begins to run."""
        self._stack.append(name)

    def leave(self, *_: Any) -> None:
        """It has run."""
        self._stack.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func in OPENED:
            with self:
                return _opened(func)(*args, **kwargs)
        name = getattr(func, "__name__", "").partition(".")[0]
        if (handler := HANDLERS.get(name)) is not None:
            found = handler(self, name, func, args, kwargs)
            if found is not None:
                return found
        output = func(*args, **kwargs)
        if self._pass_by is not None and name != "__get__":
            made = {self._parameter(one) for one in _tensors([output], {})}
            for weight in _tensors(args, kwargs) if made else ():
                known = self._parameter(weight)
                if known is not None and weight.ndim > 1 and known not in made:
                    self._pass_by(known, name)
        return output

    def _parameter(self, tensor: Tensor) -> str | None:
        """The name of the parameter that a tensor is, or of which it is a view."""
        for one in (tensor, tensor._base):
            if one is not None and (found := self._known.get(id(one))) is not None:
                return found[0]
        return None

    def use(self, weight: Any, kind: Kind, inputs: int, derived: bool = False) -> Use | None:
        """Which weight takes part, by the dimension that meets what enters; None for no weight.

        Args:
            weight: What may be one.
            kind: What it does.
            inputs: The dimension of this tensor, of its last two for a linear layer.
            derived: Whether it may come from parameters of the module that runs.
        """
        if not isinstance(weight, Tensor):
            return None
        name = self._parameter(weight)
        if name is None:
            name, owner = self._derived() if derived else ("", "")
            return Use(name, kind, inputs, 0, weight.numel(), owner=owner) if name else None
        own = self._known[id(weight)][1] if id(weight) in self._known else weight._base
        if own is not None and own is not weight and kind == "linear" and own.ndim > 1:
            turned = weight.stride()[-2:] == own.stride()[-2:][::-1] != own.stride()[-2:]
            inputs = 1 - inputs if turned else inputs
        start = 0 if own is None else int(weight.storage_offset() - own.storage_offset())
        return Use(name, kind, inputs, start, weight.numel())

    def _derived(self) -> tuple[str, str]:
        """The largest matrix among the parameters of the module that runs, and its name."""
        owner = self._stack[-1] if self._stack else ""
        matrices = [p for p in self._modules[owner].parameters() if p.ndim > 1]
        if not matrices:
            return "", ""
        return self._known[id(max(matrices, key=Tensor.numel))][0], owner

    def met(self, use: Use, input: Tensor, run: Callable[[], Tensor], **settings: Any) -> Tensor:
        """Run a product, and show it."""
        output = run()
        if torch.is_inference_mode_enabled() or not output.is_floating_point():
            return output
        kept = output
        if not output.requires_grad:
            kept = output.detach().requires_grad_(True)
            self.starts.append(kept)
            output = kept.clone()  # which may be changed in place
        self._visit(Meeting(use, self._called(use.weight), input.detach(), kept, settings))
        return output

    def _called(self, weight: str) -> str:
        """What the module that runs calls a parameter, or its first name."""
        module = self._stack[-1] if self._stack else ""
        for key, one in self._modules[module]._parameters.items():
            if one is not None and self._known[id(one)][0] == weight:
                return f"{module}.{key}".lstrip(".")
        return weight


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for one in (*args, *kwargs.values()):
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(one, {})


@cache
def _opened(function: Any) -> Any:
    """A function of torch that does not ask whether somebody looks, so that they see its calls."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    known = {**function.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    found = types.FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def _arguments(names: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _linear(seen: _Seen, _: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    given = _arguments("input weight bias", args, kwargs)
    use = seen.use(given["weight"], "linear", 1, derived=True)
    return use and seen.met(use, given["input"], lambda: func(*args, **kwargs))


def _product(seen: _Seen, name: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Of matrices, or of stacks of them; with a summand before them for ``addmm``, ``baddbmm``."""
    left, right = (args[1:] if "add" in name else args)[:2]
    if name == "__rmatmul__":
        left, right = right, left
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    if min(left.ndim, right.ndim) < 2:
        return None
    run = partial(func, *args, **kwargs)
    if (use := seen.use(right, "linear", 0)) is not None:
        return _stacked(seen, use, left, right, run)
    if (use := seen.use(left, "linear", 1)) is not None and right.ndim == left.ndim == 2:
        return seen.met(use, right.mT, run, turned=True)
    return None


def _stacked(seen: _Seen, use: Use, input: Tensor, weight: Tensor, run: Any) -> Tensor | None:
    if weight.ndim == 2:
        return seen.met(use, input, run)
    same = weight.ndim == 3 and input.ndim == 3 and len(weight) == len(input)
    return seen.met(use, input, run, groups=len(weight)) if same else None


def _convolution(seen: _Seen, name: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    places, transposed = CONVOLUTIONS[name]
    names = "input weight bias stride padding dilation groups"
    if transposed:
        names = "input weight bias stride padding output_padding groups dilation"
    given = _arguments(names, args, kwargs)
    weight, padding = given["weight"], given.get("padding", 0)
    use = seen.use(weight, "convolution", 0 if transposed else 1, derived=True)
    return use and seen.met(
        use,
        given["input"],
        lambda: func(*args, **kwargs),
        size=tuple(weight.shape[2:]),
        transposed=transposed,
        groups=given.get("groups", 1),
        stride=_several(given.get("stride", 1), places),
        padding=padding if isinstance(padding, str) else _several(padding, places),
        dilation=_several(given.get("dilation", 1), places),
    )


def _several(value: Any, places: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * places if len(found) == 1 else found


def _embedding(seen: _Seen, _: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    given = _arguments("weight input padding_idx", args, kwargs)
    weight, padding = given["weight"], given.get("padding_idx", -1)
    use = seen.use(weight, "embedding", 0)
    return use and seen.met(
        use,
        given["input"],
        lambda: func(*args, **kwargs),
        features=len(weight),
        padding=-1 if padding is None else padding,
    )


def _normalisation(seen: _Seen, name: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Without its affine part, which is applied after it."""
    names = {
        "layer_norm": "input shape weight bias",
        "group_norm": "input groups weight bias",
        "rms_norm": "input shape weight",
    }.get(name, "input weight bias")
    given = _arguments(names, args, kwargs)
    use = seen.use(given.get("weight"), "scale", 0)
    if use is None:
        return None
    affine = {i for i, one in enumerate(names.split()) if one in ("weight", "bias")}
    without = [None if i in affine else a for i, a in enumerate(args)]
    bare = {k: v for k, v in kwargs.items() if k not in ("weight", "bias")}
    normal = func(*without, **bare)
    channels = name in ("batch_norm", "instance_norm", "group_norm")
    shape = (-1, *[1] * (normal.ndim - 2)) if channels else given["weight"].shape
    weight, bias = given["weight"], given.get("bias")

    def run() -> Tensor:
        scaled = normal * weight.view(shape).to(normal.dtype)
        return scaled if bias is None else scaled + bias.view(shape).to(normal.dtype)

    shift = seen.use(bias, "scale", 0)
    use = Use(use.weight, "scale", 0, use.start, use.size, "" if shift is None else shift.weight)
    return seen.met(use, normal, run, shape=tuple(weight.shape), channels=channels)


def _multiplication(seen: _Seen, _: str, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """By a vector along the last dimensions, as in normalisations that are written out."""
    if len(args) < 2 or not all(isinstance(a, Tensor) for a in args[:2]):
        return None
    for weight, other in (args[:2], args[1::-1]):
        fits = 0 < weight.ndim < other.ndim and other.shape[-weight.ndim :] == weight.shape
        use = seen.use(weight, "scale", 0) if fits and other.is_floating_point() else None
        if use is not None:
            shape = tuple(weight.shape)
            return seen.met(use, other, lambda: func(*args, **kwargs), shape=shape, channels=False)
    return None


HANDLERS: Mapping[str, Callable[..., Tensor | None]] = {
    "linear": _linear,
    **dict.fromkeys(
        ("matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "addmm", "baddbmm"), _product
    ),
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    "embedding": _embedding,
    **dict.fromkeys(NORMALISATIONS, _normalisation),
    **dict.fromkeys(MULTIPLICATIONS, _multiplication),
}
