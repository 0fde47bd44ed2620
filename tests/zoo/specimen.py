"""One model of the zoo: a case, and what is known to be refused of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cases import Case
from torch import nn

from layerscope.probes import Probe

NO_ATTACK = {"adversarial_accuracy": "an attack needs batches .inputs, labels."}
NO_HESSIAN = {"loss_landscape": "no second derivative"}
NO_ACTIVATION = dict.fromkeys(
    ("preactivations", "linear_share", "linearisation_cost"), "no activation function was found in"
)
NO_CLASSES = {"predictions": "the data have no class for every example"}
NO_TENSOR = dict.fromkeys(
    ("conditioning_error", "fisher_spectrum", "weight_scaling"),
    "outputs are a (dict|tuple), not a tensor",
)
NO_DISTRIBUTION = {"fisher_spectrum": "does not say how labels are distributed"}
NO_LOGITS = {"predictions": "the outputs are no logits of classes"} | NO_TENSOR
NO_RULE = "no rule says what scaling the weights"
NO_BLOCKS = "no module matches the pattern 'blocks"


@dataclass(frozen=True)
class Specimen(Case):
    """A model that is awkward in one way.

    Attributes:
        refused: For each probe that cannot measure it, by its name in ``PROBES``, a pattern of the
            message.
        refused_live: The same of those that are refused while it trains, but not from checkpoints.
        blocks: Whether its blocks have the names by which `BlockContributions` finds them.
        ruled: Whether there is a rule for what scaling its weights does (`WeightScaling`).
        unit: What makes a layer.
        unrecordable: Pattern of the message with which recording is refused; empty if it is not.
        twin: Makes of the trained model one that computes the same once it is loaded, without what
            measuring has to bypass (autocast, compiled code) or what cannot be copied.
        carried: Whether what it keeps beside its weights decides its outputs, so that checkpoints
            measured later agree with live values only at the end of training.
        wrap: What the training loop calls instead of the model.
        factory: Whether fresh draws come from building the model anew, else from its modules.
        probes: Settings of probes that differ from the usual ones, by name.
        tolerance: Relative, for values that a plain loop computes in another order.
    """

    layers: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_live: Mapping[str, str] = field(default_factory=dict)
    blocks: bool = False
    ruled: bool = False
    unit: str = "module"
    unrecordable: str = ""
    twin: Callable[[nn.Module], nn.Module] = copy.deepcopy
    carried: bool = False
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    factory: bool = True
    probes: Mapping[str, Probe] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def refusals(self) -> Mapping[str, str]:
        """Patterns of all messages expected, by probe."""
        found = {} if self.blocks else {"block_contributions": NO_BLOCKS}
        found |= {} if self.ruled else {"weight_scaling": NO_RULE}
        return found | dict(self.refused)


def anew(build: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """A twin that is built rather than copied."""
    return lambda _: build()


def specimen(case: Case, **known: Any) -> Specimen:
    """A case of other tests as one of the zoo."""
    return Specimen(case.name, case.build, case.batch, case.task, **known)
