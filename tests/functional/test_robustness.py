import numpy as np
import pytest
import torch

from layerscope.functional.robustness import LABELS, degradation, labels


def test_degradation_is_the_paired_difference():
    generator = np.random.default_rng(0)
    base, changed = generator.random(500) < 0.9, generator.random((3, 500)) < 0.7
    value, error = degradation(torch.from_numpy(base), torch.from_numpy(changed))
    for i in range(3):
        differences = [float(b) - float(c) for b, c in zip(base, changed[i], strict=True)]
        assert value[i] == pytest.approx(np.mean(differences))
        assert error[i] == pytest.approx(np.std(differences, ddof=1) / np.sqrt(500))


def test_pairing_makes_agreement_certain():
    right = torch.tensor([True, False] * 50)
    value, error = degradation(right, right[None])
    assert value.tolist() == error.tolist() == [0.0]


CASES = {
    "ambient": (1.0, 0.1),
    "between": (1.0, 2.0),
    "critical": (30.0, 1.0),
}


@pytest.mark.parametrize(("label", "numbers"), CASES.items(), ids=CASES)
def test_labels_follow_the_bounds(label, numbers):
    value, error = (torch.tensor([x], dtype=torch.float64) for x in numbers)
    assert LABELS[int(labels(value, error, 2.0, 20.0)[0])] == label


def test_a_wide_interval_is_never_critical():
    value, error = (torch.tensor([x], dtype=torch.float64) for x in (30.0, 10.0))
    assert LABELS[int(labels(value, error, 2.0, 20.0)[0])] == "between"
