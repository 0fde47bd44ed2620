"""Calls of activation functions while a model runs, seen and answered by whoever visits it.

Frames stand around the ``forward`` of modules and say which of them runs; a mode of torch sees the
functions that are called inside. Nothing has to be traceable. What counts as an activation: modules
(``nn.ReLU``, or a model's own such as ``NewGELUActivation``) and functions (``torch.relu``,
``F.gelu``, ``x.relu_()``). Softmax, pooling and the gates inside recurrent layers, which are one
operator, do not, nor do ``GLU``, what acts on integers, and what parametrisations make weights of.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from layerscope.networks.names import named_modules

FUNCTIONS = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
    "elu": "ELU",
    "selu": "SELU",
    "celu": "CELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
    "sigmoid": "Sigmoid",
    "expit": "Sigmoid",
    "special_expit": "Sigmoid",
    "logsigmoid": "LogSigmoid",
    "log_sigmoid": "LogSigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanhshrink": "Tanhshrink",
    "hardshrink": "Hardshrink",
    "softshrink": "Softshrink",
    "hardtanh": "Hardtanh",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "threshold": "Threshold",
    "_threshold": "Threshold",
}
"""Kinds of activation by the names of the functions of torch that compute them."""
CLAMPS = ("clamp", "clamp_min", "clip")
PRODUCTS = ("mul", "multiply", "__mul__", "__rmul__", "__imul__")
NAMED = re.compile(
    r"relu|gelu|silu|swish|mish|[sc]?elu|sigmoid|tanh|softplus|softsign|shrink|threshold",
    re.IGNORECASE,
)
"""What the class of a module that is an activation is called after."""


class Called(NamedTuple):
    """One call of an activation, while the model runs.

    Attributes:
        name: The activation's module, or the module that calls a function, with the function:
            ``"layer1.0.relu()"``; from the second call in one pass on with a number,
            ``"layer1.0.relu#2"``.
        kind: Class of activation, e.g. ``"ReLU"``.
        module: Dotted name of the module; empty for the model itself.
        input: What enters.
        run: The activation itself; what it is given is not changed in place.
    """

    name: str
    kind: str
    module: str
    input: Tensor
    run: Callable[[Tensor], Tensor]


Visit = Callable[[Called], Tensor]
PassBy = Callable[[str, Any, Sequence[Any]], None]


def identity(input: Tensor, function: str, kind: str) -> Tensor:
    """What stands in place of a function that was linearised; seen by whoever visits the model."""
    if has_torch_function_unary(input):
        return handle_torch_function(identity, (input,), input, function=function, kind=kind)
    return input


@contextlib.contextmanager
def visiting(model: nn.Module, visit: Visit, pass_by: PassBy | None = None) -> Iterator[None]:
    """Hand every call of an activation to a function, whose result takes the place of its output.

    Where the activation works in place, what is returned is written there. Inside
    `layerscope.networks.isolation.isolated`. The function runs every activation, also one whose
    output it does not use: those that were linearised by number of call count their calls.

    Args:
        model: The module that runs inside, without wrappers.
        visit: Called for every site as it runs.
        pass_by: Called with the name of the module that runs, with it or a function of torch that
            it called, and with the arguments, for all that are no activations.
    """
    calls = Calls(visit, pass_by=pass_by)
    found = _install(model, calls, dict(named_modules(model)))
    try:
        yield
    finally:
        for module, own in found:
            put_back(module, own)


def keep_visiting(
    model: nn.Module, visit: Visit, modules: Collection[str], names: Collection[str]
) -> Kept:
    """`visiting` from now on, in every call of the model, in copies of it.

    Args:
        model: The module, changed: its modules with activations get a ``forward`` of their own.
        visit: Called for some sites as they run; copied with the model.
        modules: Names of all modules in which the model has activations.
        names: Names of those activations for which it is called; the others run as they are.

    Returns:
        What undoes it.
    """
    known = dict(named_modules(model))
    functions = any(name.split("#")[0].endswith("()") for name in names)
    inside = {*modules, ""}
    calls = Calls(visit, functions=functions, names=frozenset(names))
    # Where functions are counted, all modules are framed: others may run in train mode.
    framed = {n: m for n, m in known.items() if functions or n in inside}
    found = _install(model, calls, framed)
    fused = [m for m in known.values() if isinstance(m, nn.TransformerEncoderLayer)]
    for layer in fused:  # whose fast path in eval mode would not call the activation
        found.append((layer, vars(layer)["activation_relu_or_gelu"]))
        vars(layer)["activation_relu_or_gelu"] = 0
    return Kept(found)


class Kept:
    """What `keep_visiting` changed."""

    def __init__(self, found: Sequence[tuple[nn.Module, Any]]) -> None:
        self._found = found

    def undo(self) -> None:
        """Put everything back."""
        for module, own in reversed(self._found):
            if isinstance(own, int):
                vars(module)["activation_relu_or_gelu"] = own
            else:
                put_back(module, own)


def _install(
    model: nn.Module, calls: Calls, modules: dict[str, nn.Module]
) -> list[tuple[nn.Module, Any]]:
    """Put frames around the modules' ``forward``; returns what was there, None for the class's."""
    found = []
    for name, module in modules.items():
        own = vars(module).get("forward")
        found.append((module, own))
        module.forward = _Frame(module, own, name, calls)
    return found


def put_back(module: nn.Module, own: Any) -> None:
    """Give a module the ``forward`` that it had of its own; None for that of its class."""
    if own is None:
        del module.forward
    else:
        module.forward = own


@dataclass
class Calls:
    """What the frames of one model share while it runs.

    Attributes:
        visit: Called for the sites.
        names: The sites for which it is called; None for all.
        functions: Whether functions are looked at; modules always are.
        pass_by: As for `visiting`.
    """

    visit: Visit
    functions: bool = True
    pass_by: PassBy | None = None
    names: frozenset[str] | None = None
    stack: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    looking: bool = False
    inside: bool = False

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[None]:
        """While a module runs.

        Its functions are looked at also outside of a pass, as when a part is computed again for
        the backward pass.
        """
        if not self.stack:
            self.counts.clear()
        begins = self.functions and not self.looking
        self.stack.append(name)
        try:
            if begins:
                self.looking = True
                with _Functions(self):
                    yield
            else:
                yield
        finally:
            self.stack.pop()
            if begins:
                self.looking = False

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """While what runs is looked at as a whole, or not at all."""
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def site(
        self,
        name: str,
        kind: str,
        input: Tensor,
        run: Callable[[Tensor], Tensor],
        in_place: bool | None,
    ) -> tuple[Tensor, bool]:
        """The output at a site, and whether it is what entered, unchanged.

        Args:
            name: Of the site, without the number of the call.
            kind: Class of activation.
            input: What enters.
            run: The activation.
            in_place: Whether that changes what enters; None where only running it can tell.
        """
        self.counts[name] += 1
        number = self.counts[name]
        full = name if number == 1 else f"{name}#{number}"
        if self.names is not None and full not in self.names:
            with self.hidden():
                output = run(input)
            return output, in_place is False and output is input
        writes = bool(in_place)

        def apart(x: Tensor) -> Tensor:
            nonlocal writes
            if in_place is False:
                return run(x)
            copy = _counted_copy(x)
            before, made = copy._version, run(copy)
            changed = copy._version != before or (made is copy and not _counted(copy))
            writes = writes or changed
            return x if made is copy and not changed else made

        with self.hidden():
            output = self.visit(Called(full, kind, self.stack[-1], input, apart))
        same = output is input
        return (input.copy_(output) if writes and not same else output), same


def _counted(tensor: Tensor) -> bool:
    """Whether changes in place are counted; inside of transformations, e.g. vmap, they are not."""
    return not is_functorch_wrapped_tensor(tensor)


def _counted_copy(tensor: Tensor) -> Tensor:
    """A copy of which it is counted how often it is changed, in inference mode, too."""
    if not torch.is_inference_mode_enabled():
        return tensor.clone()
    with torch.inference_mode(False):
        return tensor.detach().clone()


class _Frame:
    """Stands for the ``forward`` of a module: says that it runs, and visits it if it is a site."""

    def __init__(
        self, module: nn.Module, own: Callable[..., Any] | None, name: str, calls: Calls
    ) -> None:
        self.module = module
        self.own = own
        self.name = name
        self.calls = calls
        self.kind = type(module).__name__ if is_activation(module) else ""
        self.in_place = _in_place(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = self.calls
        if calls.inside:  # of an activation that is a site as a whole
            return self._run(*args, **kwargs)
        if isinstance(self.module, ParametrizationList):
            with calls.hidden():
                return self._run(*args, **kwargs)
        with calls.within(self.name):
            begins = _first(args, kwargs) if self.kind else None
            if begins is not None:
                input, again = begins
                output, _ = calls.site(
                    self.name, self.kind, input, lambda x: again(self._run, x), self.in_place
                )
            else:
                output = self._run(*args, **kwargs)
        if calls.pass_by is not None:
            calls.pass_by(self.name, self.module, args)
        return output

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)


def _in_place(module: nn.Module) -> bool | None:
    """Whether an activation works in place; None for those that are not torch's own."""
    known = type(module).__module__ == "torch.nn.modules.activation"
    return bool(getattr(module, "inplace", False)) if known else None


Again = Callable[[Callable[..., Any], Tensor], Any]


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Again] | None:
    """The numbers with which a call begins, and how to call with others; None where it does not."""
    key = "" if args else next((k for k, v in kwargs.items() if isinstance(v, Tensor)), "")
    input = args[0] if args else kwargs.get(key)
    if not isinstance(input, Tensor) or not (input.is_floating_point() or input.is_complex()):
        return None

    def again(run: Callable[..., Any], x: Tensor) -> Any:
        return run(**{**kwargs, key: x}) if key else run(x, *args[1:], **kwargs)

    return input, again


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation as a whole: called after one, without parts that learn.

    A few numbers may learn, such as slopes, but no matrix.
    """
    name = type(module).__name__
    named = type(module).__module__ == "torch.nn.modules.activation" or NAMED.search(name)
    if not named or isinstance(module, nn.MultiheadAttention | nn.GLU) or "oftmax" in name:
        return False
    if any(sum(n > 1 for n in p.shape) > 1 for p in module.parameters(recurse=False)):
        return False
    return not any(True for child in module.children() for _ in child.parameters())


class _Functions(TorchFunctionMode):
    """Looks at the functions of torch that are called."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        calls, kwargs = self._calls, kwargs or {}
        if calls.inside or not calls.stack:
            return func(*args, **kwargs)
        if func is identity:
            function, kind = kwargs["function"], kwargs["kind"]
            name = f"{calls.stack[-1]}.{function}()".lstrip(".")
            output, same = calls.site(name, kind, args[0], lambda x: x, False)
            return identity(output, function=function, kind=kind) if same else output
        function = getattr(func, "__name__", "").partition(".")[0]  # relu.default of torch.ops
        short = function.rstrip("_") if function[:2] != "__" else function
        kind = _kind(short, args, kwargs)
        begins = _first(args, kwargs) if kind else None
        if begins is None:
            if calls.pass_by is not None:
                calls.pass_by(calls.stack[-1], short, args)
            return func(*args, **kwargs)
        input, again = begins
        flags = (*args[1:], kwargs.get("inplace"))
        in_place = function.endswith("_") or any(x is True for x in flags)
        short = short.lstrip("_")
        name = f"{calls.stack[-1]}.{short}()".lstrip(".")
        output, same = calls.site(name, kind, input, lambda x: again(func, x), in_place)
        return identity(output, function=short, kind=kind) if same else output


def _kind(function: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """The class of activation that a function of torch computes; empty for any other."""
    if function in FUNCTIONS:
        return FUNCTIONS[function]
    if function not in CLAMPS:
        return ""
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    is_zero = isinstance(low, int | float) and low == 0
    return "ReLU" if is_zero and high is None else ""
