import numpy as np
import pytest
from tests.cases import CNN, FCN
from tests.probes.test_reinitialisation import recorded

from layerscope.errors import LayerscopeError
from layerscope.functional.bounds import parameter_counting_bound
from layerscope.probes import GeneralisationBound, measure
from layerscope.probes.bound import computing_units
from reference import variants as reference


def test_bound_is_that_of_the_joint_reset_on_the_training_data(tmp_path):
    run, model = recorded(FCN, tmp_path / "run")
    data = [FCN.batch(20), FCN.batch(21)]
    given = {"model": model, "task": FCN.task, "training_data": data}
    found = measure(GeneralisationBound(guesses=("all_but_first",)), run, **given)
    names = [n for layer in list(run.layers)[1:] for n in layer.parameters]
    run.load(model, run.steps[-1])
    reset = {n: run.checkpoint(0)[n] for n in names}
    _, correct = reference.evaluate(model, [{}, reset], data, FCN.task)
    risk, changed = (1 - correct.double().mean(1)).tolist()
    total = 4 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    share = 1 - (4 * 8 + 8) / total
    expected = parameter_counting_bound(
        risk, changed - risk, total, share, 8 + 8 + 3, 3, 16, guesses=2
    )
    row = found.sel(guess="all_but_first")
    np.testing.assert_allclose(row["share"], share)
    np.testing.assert_allclose(row["rise"], changed - risk)
    np.testing.assert_allclose(row["bound"], expected.reset)
    np.testing.assert_allclose(found["plain"], expected.plain)
    assert not found["member"].sel(guess="nothing").any()
    (table,) = GeneralisationBound().figures(found)
    assert table.row_names() == ("nothing", "all but first")


def test_units_are_outputs_of_weighted_layers():
    # 1x8x8 images: 4 x 6 x 6, then 4 x 4 x 4, then 3 classes
    assert computing_units(CNN.model(), CNN.task, [CNN.batch(0)]) == (144 + 64 + 3, 3)


def test_training_data_are_needed(tmp_path):
    run, model = recorded(FCN, tmp_path / "run")
    with pytest.raises(LayerscopeError, match="needs training_data"):
        measure(GeneralisationBound(), run, model=model, task=FCN.task)
