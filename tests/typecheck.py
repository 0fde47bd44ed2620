"""The checker behind ``--jaxtyping-packages=layerscope.functional,typecheck.checker``."""

from __future__ import annotations

import functools
import random

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checker(function):
    """Beartype, leaving Python's random state alone: it draws which item of a list to look at."""
    checked = _beartype(function)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        state = random.getstate()
        try:
            return checked(*args, **kwargs)
        finally:
            random.setstate(state)

    return wrapped
