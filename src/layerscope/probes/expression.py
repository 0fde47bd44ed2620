"""Probes as text, e.g. ``weight_change(reduction="angle")``: written by `Probe`, read here."""

from __future__ import annotations

import ast
import dataclasses

from layerscope import catalogue
from layerscope.errors import LayerscopeError, unknown
from layerscope.probes.base import Probe


def parse(text: str) -> Probe:
    """The probe that an expression describes: its name, and settings in brackets if any.

    Raises:
        LayerscopeError: The text is no such expression, or there is no such probe or setting.
    """
    known = catalogue.probes()
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(text)
        name = call.func.id
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise LayerscopeError(
            f"cannot read the probe {text!r}.",
            'Write for example weight_change or weight_change(reduction="angle").',
        ) from error
    if name not in known:
        raise unknown("probe", name, known)
    kind = known[name].load()
    fields = [f.name for f in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    for setting in settings:
        if setting not in fields:
            raise unknown(f"setting of {name}", setting, fields)
    return kind(**settings)
