"""Where activation functions act in a model, in order of execution, and what may act instead.

Activations are modules (``nn.ReLU``, or a model's own such as ``NewGELUActivation``) and calls of
functions (``torch.relu``, ``F.gelu``, ``x.relu_()``). Both are met while the model runs as it is:
nothing has to be traceable. Not among them are softmax, pooling, the gates inside recurrent layers,
which are one operator, ``GLU`` and whatever else gives another shape than it takes, what acts on
integers, and what parametrisations make weights of.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import Forward, preview, run_example
from layerscope.networks.isolation import isolated
from layerscope.networks.names import named_modules, unwrap

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
APPLY = inspect.unwrap(torch.autograd.Function.apply).__code__
CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
NORMS_LAST = (nn.LayerNorm, nn.RMSNorm)
"""Normalisations of the last dimensions; what is derived of them may normalise others."""


@dataclass(frozen=True)
class Site:
    """A place where an activation function acts on a tensor.

    Attributes:
        name: The activation's module, e.g. ``"stage1.resblk1.activation"``, or the module that
            calls a function, with the function: ``"layer1.0.relu()"``. From the second call in one
            pass on a number follows: ``"layer1.0.relu#2"``.
        index: Place in order of execution, from 0.
        kind: Class of activation, e.g. ``"ReLU"``.
        module: Dotted name of the module; empty for the model itself.
        behind: Dotted name of the module with parameters that ran last before it.
        axis: Dimension of the nodes (channels, units): 1 behind convolutions and the
            normalisations that go with them, the last one otherwise. Modules that scale or
            activate leave it as it is.
        gated: Whether what leaves it is multiplied by another tensor right away, as in SwiGLU or
            squeeze-and-excitation: without the activation that product is not linear either.
        linear: Whether it was linearised: what enters leaves.
        own_backward: Whether it runs inside of a `torch.autograd.Function`, whose backward pass
            would stay what it is if the activation were left out.
    """

    name: str
    index: int
    kind: str
    module: str
    behind: str
    axis: int
    gated: bool = False
    linear: bool = False
    own_backward: bool = False


class Called(NamedTuple):
    """One call of an activation, while the model runs.

    Attributes:
        name: As for `Site`.
        kind: As for `Site`.
        module: As for `Site`.
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


def find_sites(model: nn.Module, example: Any, forward: Forward | None = None) -> tuple[Site, ...]:
    """The sites of a model, found by running it once in eval mode; it is left as found.

    Args:
        model: Any module, also inside wrappers.
        example: What it eats, as for `layerscope.LayerMap.from_model`.
        forward: How to run it on the example, e.g. ``task.forward``.

    Raises:
        LayerscopeError: The model does not run on the example, or holds TorchScript modules.
    """
    model = unwrap(model)
    search = _Search()
    try:
        with isolated(model), torch.no_grad(), visiting(model, search, search.pass_by):
            run_example(model, example, forward)
    except LayerscopeError:
        raise
    except Exception as error:  # of the model's own code
        raise LayerscopeError(
            f"{type(model).__name__} does not run on the example: {error}",
            "Pass an example that it takes, e.g. a batch of the data, and the task's forward.",
        ) from error
    return tuple(search.found.values())


class _Search:
    """Collects sites, and what is found out about them from what runs before and after."""

    def __init__(self) -> None:
        self.found: dict[str, Site] = {}
        self._behind: tuple[str, int] = "", -1
        self._left: dict[int, tuple[str, weakref.ref[Tensor]]] = {}

    def __call__(self, call: Called) -> Tensor:
        version = _version(call.input)
        output = call.run(call.input)
        if not isinstance(output, Tensor) or output.shape != call.input.shape:
            return output
        linear = output is call.input and _version(output) == version
        behind, axis = self._behind
        if call.name not in self.found:
            self.found[call.name] = Site(
                call.name,
                len(self.found),
                call.kind,
                call.module,
                behind,
                axis if call.input.ndim > 2 else -1,
                linear=linear,
                own_backward=_inside_autograd_function(),
            )
        self._left[id(output)] = call.name, weakref.ref(output)
        return output

    def pass_by(self, name: str, what: Any, inputs: Sequence[Any]) -> None:
        """Look at a module or function on the way."""
        if isinstance(what, nn.Module):
            own = next(what.parameters(recurse=False), None)
            if own is not None or is_parametrized(what):
                self._behind = name, _axis(what, self._behind[1])
        elif what in PRODUCTS:
            tensors = [x for x in inputs if isinstance(x, Tensor) and x.numel() > 1]
            for tensor in tensors if len(tensors) > 1 else ():
                name, left = self._left.get(id(tensor), ("", None))
                if left is not None and left() is tensor:
                    self.found[name] = replace(self.found[name], gated=True)


def _inside_autograd_function() -> bool:
    """Whether what runs was called by the forward pass of a `torch.autograd.Function`."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not APPLY:
        frame = frame.f_back
    return frame is not None


def _axis(module: nn.Module, before: int) -> int:
    """Dimension of the nodes behind a module with parameters; it was another one before it."""
    weight = module._parameters.get("weight")
    if isinstance(module, CHANNELS_FIRST) or (weight is not None and weight.ndim > 2):
        return 1
    if isinstance(module, CHANNELS_LAST) or type(module) in NORMS_LAST:
        return -1
    return before


def _version(tensor: Tensor) -> int | None:
    """How often it was changed in place; None where that is not counted."""
    return None if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def seeing(model: nn.Module, see: Callable[[Site, Tensor, Tensor], None]) -> Iterator[None]:
    """Show every site with what enters and what leaves to a function while the model runs.

    The tensors are the model's own: do not keep or change them. Inside
    `layerscope.networks.isolation.isolated`.

    Args:
        model: The module that runs inside, without wrappers.
        see: Called for every site as it runs.
    """
    search = _Search()

    def visit(call: Called) -> Tensor:
        output = search(call)
        if call.name in search.found:
            see(search.found[call.name], call.input, output)
        return output

    with visiting(model, visit, search.pass_by):
        yield


def nodes_second(site: Site, values: Tensor) -> Tensor:
    """What enters or leaves a site as (samples, nodes, *places)."""
    return values.reshape(-1, 1) if values.ndim < 2 else values.movedim(site.axis, 1)


def chosen_sites(sites: Sequence[Site], which: str | Sequence[str]) -> tuple[Site, ...]:
    """Some of a model's sites.

    Args:
        sites: What `find_sites` found.
        which: One or several of ``"all"``, ``"first:9"``, ``"last:20"``, a position such as
            ``"7"``, or a glob pattern of names.

    Returns:
        The sites, in order of execution.

    Raises:
        LayerscopeError: There are fewer sites, no such position, or no name matches.
    """
    chosen: set[int] = set()
    for text in [which] if isinstance(which, str) else which:
        found = _matching(sites, text)
        if not found:
            raise LayerscopeError(
                f"{text!r} matches no activation of this model.",
                f"It has {len(sites)}: {preview([site.name for site in sites]) or 'none'}. "
                "Write all, first:3, last:3, a position from 0, or a pattern of names.",
            )
        chosen.update(found)
    return tuple(site for site in sites if site.index in chosen)


def _matching(sites: Sequence[Site], text: str) -> list[int]:
    indices = [site.index for site in sites]
    if text == "all":
        return indices
    if text.isdecimal():
        return [int(text)] if int(text) in indices else []
    if match := re.fullmatch(r"(first|last):(\d+)", text):
        n = int(match[2])
        if not 1 <= n <= len(indices):
            return []
        return indices[:n] if match[1] == "first" else indices[-n:]
    return [site.index for site in sites if fnmatchcase(site.name, text)]


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
            _put_back(module, own)


def keep_linear(model: nn.Module, sites: Sequence[Site], every: Sequence[Site]) -> Kept:
    """Let activations be the identity from now on, in every call of the model, in copies of it.

    Args:
        model: The module, changed: its modules with activations get a ``forward`` of their own.
        sites: The sites to linearise.
        every: All sites of the model.

    Returns:
        What undoes it.
    """
    # Those that are linear already are not run by what is put around them, nor counted there.
    names = frozenset(site.name for site in (*sites, *every) if site.linear or site in sites)
    return keep_visiting(model, _identity_at, every, names)


def keep_visiting(
    model: nn.Module, visit: Visit, every: Sequence[Site], names: Collection[str]
) -> Kept:
    """`visiting` from now on, in every call of the model, in copies of it.

    Args:
        model: The module, changed: its modules with activations get a ``forward`` of their own.
        visit: Called for some sites as they run; copied with the model.
        every: All sites of the model.
        names: Names of those for which it is called; the others run as they are.

    Returns:
        What undoes it.
    """
    modules = dict(named_modules(model))
    functions = any(name.split("#")[0].endswith("()") for name in names)
    inside = {site.module for site in every} | {""}
    calls = Calls(visit, functions=functions, names=frozenset(names))
    # Where functions are counted, all modules are framed: others may run in train mode.
    framed = {n: m for n, m in modules.items() if functions or n in inside}
    found = _install(model, calls, framed)
    fused = [m for m in modules.values() if isinstance(m, nn.TransformerEncoderLayer)]
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
                _put_back(module, own)


def _identity_at(call: Called) -> Tensor:
    return call.input


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


def _put_back(module: nn.Module, own: Any) -> None:
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
            kind: As for `Site`.
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
