import numpy as np
import pytest
import xarray as xr

from layerscope.report.diagnosis import _listed, findings, layer_summary, reset_summary, resets

LAYERS = ["a", "b", "c"]


def measured(
    distance=(0.2, 0.9, 0.5),
    half=(4.0, 1.0, 2.0),
    gradient=(1.0, 2.0, 3.0),
    seeds=None,
    trained=(True, True, True),
):
    def at_end(values):
        rows = np.stack([np.zeros(3), np.asarray(values, float)])
        return ("step", "layer"), rows

    steps = {
        "layer": LAYERS,
        "step": [0, 10],
        "n_parameters": ("layer", [1, 2, 3]),
        "trained": ("layer", list(trained)),
    }
    found = {
        "weight_change": xr.Dataset({"change": at_end([0.2, 0.4, 0.6])}, coords=steps).isel(
            layer=[0, 1]
        ),
        "distance_from_initialisation": xr.Dataset(
            {"relative_distance": at_end(distance), "rms_distance": at_end([0.01, 0.02, 0.03])},
            coords=steps,
        ),
        "convergence": xr.Dataset(
            {"half_time": ("layer", list(half), {"units": "epochs"})}, coords={"layer": LAYERS}
        ),
        "path_and_progress": xr.Dataset(
            {"directness": at_end([0.1, 0.2, 0.3]), "path": at_end([1.0, 2.0, 3.0])}, coords=steps
        ),
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
    assert means["change"].values == pytest.approx([0.2, 0.4, np.nan], nan_ok=True)


@pytest.mark.parametrize("seeds", [None, 3])
def test_findings_say_which_when_and_how_far(seeds):
    made = measured(seeds=seeds)
    text = " ".join(finding.text for finding in findings(layer_summary(made), made))
    assert "b moved farthest: 90% of its initial norm; a moved least: 20%." in text
    assert "b got half-way first, after 1 epochs; a last, after 4." in text
    assert "c took the straightest path" in text
    assert "Every trained layer learned" in text
    assert "as of" not in text


def texts_of(made, planned=None):
    return [finding.text for finding in findings(layer_summary(made, planned), made)]


@pytest.mark.parametrize("seeds", [None, 2])
def test_layers_that_are_not_trained_are_named_once_and_compared_with_no_other(seeds):
    made = measured((0.0, 0.9, 0.5), (np.nan, 1, 2), (9e9, 2, 3), seeds, (False, True, True))
    made |= {"reinitialisation": reset_costs(seeds, trained=(False, True, True))}
    summary, texts = layer_summary(made), texts_of(made)
    assert "a is not trained." in texts
    assert "b moved farthest: 90% of its initial norm; c moved least: 50%." in texts
    assert "b got half-way first, after 1 epochs; c last, after 2." in texts
    assert not any("barely" in t or "Gradients" in t for t in texts)
    assert next(t for t in texts if "Resetting a" in t).endswith("points: not trained.")
    assert summary["note"].values.tolist() == ["not trained", "", ""]


def test_a_layer_that_was_frozen_at_first_and_moved_later_is_one_that_is_trained():
    made = measured(distance=(0.2, 0.9, 0.5), trained=(False, True, True))
    assert layer_summary(made)["trained"].values.tolist() == [True] * 3
    assert not any("not trained" in text for text in texts_of(made))


def test_results_of_earlier_versions_do_not_say_what_is_trained():
    made = {name: data.drop_vars("trained", errors="ignore") for name, data in measured().items()}
    made["reinitialisation"] = reset_costs().drop_vars("trained")
    assert layer_summary(made)["trained"].values.tolist() == [True] * 3
    assert any(text.endswith("points: ambient.") for text in texts_of(made))


def test_a_model_of_which_nothing_is_trained_says_that_alone():
    made = measured((0, 0, 0), (np.nan,) * 3, trained=(False,) * 3)
    made["path_and_progress"]["directness"][:] = np.nan
    assert texts_of(made) == ["a, b, c are not trained."]


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_layer_that_starts_at_zero_is_told_with_where_it_ended(seeds):
    made = measured(distance=(np.inf, 0.9, 0.5), seeds=seeds)
    assert (
        "a started at zero, so that its relative distance has no bound; it ended at RMS 0.01."
        in texts_of(made)
    )
    assert "b moved farthest: 90% of its initial norm; c moved least: 50%." in texts_of(made)
    assert layer_summary(made)["note"].values.tolist() == ["started at zero", "", ""]


def test_several_layers_that_start_at_zero_are_one_sentence():
    made = measured(distance=(np.inf, 0.9, np.inf))
    assert (
        "a, c started at zero, so that their relative distances have no bound; they ended at RMS "
        "0.01, 0.03." in texts_of(made)
    )


@pytest.mark.parametrize(
    ("epochs", "last", "planned", "expected"),
    [
        (True, 10, 50, "as of epoch 2 of 10"),
        (True, 10, 10, None),
        (False, 10, 50, "as of step 10 of 50"),
        (True, 5, None, "as of epoch 1"),
        (False, 15, None, "as of step 15"),
        (False, 10, None, None),
    ],
)
def test_distances_of_another_step_than_the_last_say_which(epochs, last, planned, expected):
    made = measured()
    distance = made["distance_from_initialisation"].assign_coords(step=[0, last])
    if epochs:
        distance = distance.assign_coords(epoch=("step", [0.0, last / 5]))
    made["distance_from_initialisation"] = distance
    assert layer_summary(made, planned)["distance"].attrs["as_of"] == (expected or "")
    found = {t for t in texts_of(made, planned) if "as of" in t}
    assert found == (
        {
            f"b moved farthest: 90% of its initial norm; a moved least: 20%, {expected}.",
            f"Every trained layer learned: none ended within 1% of where it started, {expected}.",
        }
        if expected
        else set()
    )


def test_seeds_that_end_at_different_steps_each_count_with_their_end():
    made, longer = measured(), measured(distance=(0.4, 0.7, 0.5))
    longer = {
        n: data.assign_coords(step=[0, 20]) if "step" in data.coords else data
        for n, data in longer.items()
    }
    both = {name: xr.concat([made[name], longer[name]], "seed", join="outer") for name in made}
    summary = layer_summary(both)
    assert summary["distance"].values.tolist() == [[0.2, 0.9, 0.5], [0.4, 0.7, 0.5]]
    assert summary["distance"].attrs["as_of"] == ""
    assert layer_summary(both, 20)["distance"].attrs["as_of"] == "as of steps 10 to 20 of 20"


def test_without_a_measured_distance_the_rest_is_said():
    made = measured()
    del made["distance_from_initialisation"]
    assert "distance" not in layer_summary(made)
    assert texts_of(made)[0] == "b got half-way first, after 1 epochs; a last, after 4."


def test_many_layers_are_counted():
    assert _listed(["a"]) == "a is"
    assert _listed(["a", "b"]) == "a, b are"
    assert _listed(list("abcdefg")) == "7 layers (a, b, c ...) are"


def test_a_layer_that_barely_moved_is_a_warning():
    made = measured(distance=(0.2, 0.001, 0.5))
    warnings = [f for f in findings(layer_summary(made), made) if f.tone == "warning"]
    assert [f.layer for f in warnings] == ["b"]


@pytest.mark.parametrize(("smallest", "count"), [(1e-2, 0), (1e-6, 1), (0.0, 1)])
def test_gradients_that_differ_much_are_a_warning(smallest, count):
    made = measured(gradient=(1.0, smallest, 3.0))
    found = [f for f in findings(layer_summary(made), made) if "Gradients" in f.text]
    assert len(found) == count


def reset_costs(seeds=None, labels=("critical", "ambient", "between"), trained=(True,) * 3):
    """Degradation of three layers after resetting them to step 0."""
    points = ("layer", "checkpoint")
    made = xr.Dataset(
        {
            "degradation": (points, [[70.0, 40.0], [71.0, 0.4], [72.0, 3.0]]),
            "degradation_error": (points, [[1.0, 1.0], [1.0, 0.05], [1.0, 1.0]]),
            "label": ("layer", np.where(trained, labels, "frozen")),
            "rms_distance": (points, np.outer(trained, [1.0, 1.0])),
        },
        coords={
            "layer": LAYERS,
            "trained": ("layer", list(trained)),
            "checkpoint": ["random", "0"],
        },
    )
    return xr.concat([made] * seeds, "seed") if seeds else made


@pytest.mark.parametrize("seeds", [None, 1, 3])
def test_a_plain_sentence_says_what_a_reset_costs(seeds):
    made = measured(seeds=seeds) | {"reinitialisation": reset_costs(seeds)}
    texts = [f.text for f in findings(layer_summary(made), made) if "Resetting" in f.text]
    margin = "0.0" if seeds == 3 else "2.0"
    assert f"a to its initial weights costs 40.0 \u00b1 {margin} points: critical." in texts[0]
    assert [text.rpartition(": ")[2] for text in texts] == [
        "critical.",
        "neither ambient nor critical.",
        "ambient.",
    ]


def test_the_sentence_on_a_network_counts_trained_layers_only():
    labels = ("ambient", "ambient", "critical")
    text = reset_summary(reset_costs(labels=labels, trained=(False, True, True)), "A").text
    assert text.startswith("A: 1 of 2 trained layers are ambient and 1 critical;")
    text = reset_summary(reset_costs(labels=labels), "A").text
    assert text.startswith("A: 2 of 3 layers are ambient and 1 critical;")


def test_of_many_resets_those_of_layers_that_are_not_trained_are_left_out():
    made = xr.concat([reset_costs(trained=(True, True, i > 0)) for i in range(3)], "layer")
    made = made.assign_coords(layer=list("abcdefghi"))
    names = [finding.layer for finding in resets(made)]
    assert len(names) == 6
    assert "c" not in names
