"""All models of the zoo."""

from __future__ import annotations

from tests.zoo.awkward import AWKWARD
from tests.zoo.beside import BESIDE
from tests.zoo.flow import FLOW
from tests.zoo.foreign import FOREIGN
from tests.zoo.gradients import GRADIENTS
from tests.zoo.precision import PRECISION
from tests.zoo.structure import STRUCTURE
from tests.zoo.tensors import TENSORS
from tests.zoo.wrappers import WRAPPERS

ZOO = (
    *STRUCTURE,
    *AWKWARD,
    *BESIDE,
    *GRADIENTS,
    *FLOW,
    *TENSORS,
    *PRECISION,
    *WRAPPERS,
    *FOREIGN,
)
