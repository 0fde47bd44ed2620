import numpy as np
import pytest
import xarray as xr

from layerscope.diagnosis import findings, layer_summary

LAYERS = ["a", "b", "c"]


def measured(distance=(0.2, 0.9, 0.5), half=(4.0, 1.0, 2.0), gradient=(1.0, 2.0, 3.0), seeds=None):
    def at_end(values):
        rows = np.stack([np.zeros(3), np.asarray(values, float)])
        return ("step", "layer"), rows

    steps = {"layer": LAYERS, "step": [0, 10], "n_parameters": ("layer", [1, 2, 3])}
    found = {
        "weight_change": xr.Dataset({"change": at_end([0.2, 0.4, 0.6])}, coords=steps).isel(
            layer=[0, 1]
        ),
        "distance_from_initialisation": xr.Dataset(
            {"relative_distance": at_end(distance)}, coords=steps
        ),
        "convergence": xr.Dataset(
            {"half_time": ("layer", list(half), {"units": "epochs"})}, coords={"layer": LAYERS}
        ),
        "path_and_progress": xr.Dataset({"directness": at_end([0.1, 0.2, 0.3])}, coords=steps),
        "gradient_magnitude": xr.Dataset(
            {"gradient_magnitude": (("step", "layer"), [gradient] * 2)}, coords=steps
        ),
    }
    if seeds:
        found = {name: xr.concat([d] * seeds, "seed") for name, d in found.items()}
    return found


@pytest.mark.parametrize("seeds", [None, 3])
def test_a_summary_has_one_value_per_layer(seeds):
    summary = layer_summary(measured(seeds=seeds))
    means = summary.mean("seed") if seeds else summary
    assert means["distance"].values == pytest.approx([0.2, 0.9, 0.5])
    assert means["change"].values == pytest.approx([0.1, 0.2, np.nan], nan_ok=True)


@pytest.mark.parametrize("seeds", [None, 3])
def test_findings_say_which_when_and_how_far(seeds):
    made = measured(seeds=seeds)
    text = " ".join(finding.text for finding in findings(layer_summary(made), made))
    assert "b moved farthest: 90% of its initial norm; a moved least: 20%." in text
    assert "b got half-way first, after 1 epochs; a last, after 4." in text
    assert "c took the straightest path" in text
    assert "Every layer learned" in text


def test_a_layer_that_barely_moved_is_a_warning():
    made = measured(distance=(0.2, 0.001, 0.5))
    warnings = [f for f in findings(layer_summary(made), made) if f.tone == "warning"]
    assert [f.layer for f in warnings] == ["b"]


@pytest.mark.parametrize(("smallest", "count"), [(1e-2, 0), (1e-6, 1), (0.0, 1)])
def test_gradients_that_differ_much_are_a_warning(smallest, count):
    made = measured(gradient=(1.0, smallest, 3.0))
    found = [f for f in findings(layer_summary(made), made) if "Gradients" in f.text]
    assert len(found) == count


def resets(seeds=None, labels=("critical", "ambient", "between")):
    """Degradation of three layers after resetting them to step 0."""
    points = ("layer", "checkpoint")
    made = xr.Dataset(
        {
            "degradation": (points, [[70.0, 40.0], [71.0, 0.4], [72.0, 3.0]]),
            "degradation_error": (points, [[1.0, 1.0], [1.0, 0.05], [1.0, 1.0]]),
            "label": ("layer", list(labels)),
        },
        coords={"layer": LAYERS, "checkpoint": ["random", "0"]},
    )
    return xr.concat([made] * seeds, "seed") if seeds else made


@pytest.mark.parametrize("seeds", [None, 1, 3])
def test_a_plain_sentence_says_what_a_reset_costs(seeds):
    made = measured(seeds=seeds) | {"reinitialisation": resets(seeds)}
    texts = [f.text for f in findings(layer_summary(made), made) if "Resetting" in f.text]
    margin = "0.0" if seeds == 3 else "2.0"
    assert f"a to its initial weights costs 40.0 \u00b1 {margin} points: critical." in texts[0]
    assert [text.rpartition(": ")[2] for text in texts] == [
        "critical.",
        "neither ambient nor critical.",
        "ambient.",
    ]
