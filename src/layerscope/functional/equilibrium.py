"""Where the rotation of weights before a normalisation comes to rest under weight decay.

What follows a normalisation does not depend on the length of the weights before it, so that
gradients are orthogonal to them and only make them longer, while weight decay makes them shorter.
Once both are in balance the weights turn by the same angle at every step, whatever the layer, its
size or its gradients.

Source: Wan, Zhu, Zhang and Sun, "Spherical motion dynamics" (NeurIPS 2021), Theorem 1; Kosson,
Messmer and Jaggi, "Rotational equilibrium" (ICML 2024), Table 1.
"""

from __future__ import annotations

import math


def equilibrium_angle(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""Angle that scale-invariant weights turn at a step in equilibrium, in rad.

    .. math:: \sqrt{2 \eta \lambda / (1 + \alpha)}

    For SGD with momentum :math:`\alpha` (not Nesterov's) and weight decay :math:`\lambda` that is
    added to the gradient, as `torch.optim.SGD` does, at a constant learning rate :math:`\eta`,
    where gradients of different steps are independent and the angle is small.

    Args:
        learning_rate: Learning rate.
        weight_decay: Factor of the weights in the gradient.
        momentum: Momentum, from 0 to below 1.
    """
    return math.sqrt(2 * learning_rate * weight_decay / (1 + momentum))


def equilibrium_time(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""Steps after which the length of scale-invariant weights is about balanced.

    .. math:: (1 - \alpha) / (2 \eta \lambda)

    The time in which what remains of the initial squared length falls by a factor of about e; it
    is infinite without weight decay.

    Args:
        learning_rate: Learning rate.
        weight_decay: Factor of the weights in the gradient.
        momentum: Momentum, from 0 to below 1.
    """
    decay = 2 * learning_rate * weight_decay
    return (1 - momentum) / decay if decay else math.inf


def diffusive_directness(steps: int, momentum: float = 0.0) -> float:
    r"""Length of the way that steps of independent gradients make together over their own lengths.

    .. math:: \frac{1}{n} \sqrt{n \frac{1 + \alpha}{1 - \alpha}
              - \frac{2 \alpha (1 - \alpha^n)}{(1 - \alpha)^2}}

    Without momentum :math:`1 / \sqrt{n}`. With momentum a step keeps the share :math:`\alpha` of
    the one before, so that steps point the same way for a while even where gradients do not.

    Args:
        steps: Number n of steps.
        momentum: Momentum, from 0 to below 1.
    """
    kept = momentum**steps
    squared = steps * (1 + momentum) / (1 - momentum)
    squared -= 2 * momentum * (1 - kept) / (1 - momentum) ** 2
    return math.sqrt(squared) / steps
