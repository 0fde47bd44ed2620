from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from layerscope.config import RunConfig
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Bars
from layerscope.probes import WeightChange
from layerscope.studies.claims import Claim, above
from layerscope.studies.study import FIDELITY, Study, collect, decide, write

STUDY = Study(
    name="paper.fig0",
    title="",
    source="",
    summary="",
    reduction="",
    scale="smoke",
    variants={"a": RunConfig(epochs=1), "b": RunConfig(epochs=2)},
    seeds=(3, 5),
    probes=(WeightChange(),),
    claims=(
        Claim("up", "", "", lambda d: above(d["a/weight_change"]["change"].isel(layer=0), "up")),
    ),
    figures=lambda data: [],
)


def dataset(value, layers=("x", "y")):
    return xr.Dataset({"change": ("layer", [value] * len(layers))}, coords={"layer": list(layers)})


def measured(**layers):
    return {
        (variant, seed): {"weight_change": dataset(1 + seed / 100, layers.get(variant, ("x", "y")))}
        for variant in STUDY.variants
        for seed in STUDY.seeds
    }


def test_runs_are_variants_times_seeds():
    found = [(variant, seed, config.epochs, config.seed) for variant, seed, config in STUDY.runs()]
    assert found == [("a", 3, 1, 3), ("a", 5, 1, 5), ("b", 3, 2, 3), ("b", 5, 2, 5)]


def test_variants_may_have_different_layers():
    data = collect(STUDY, measured(b=("z",)))
    assert data["a/weight_change"]["change"].dims == ("seed", "layer")
    assert list(data["a/weight_change"]["seed"].values) == [3, 5]
    assert list(data["b/weight_change"]["layer"].values) == ["z"]


def test_a_run_without_measurements_is_left_out():
    some = measured()
    del some["a", 3]
    data = collect(STUDY, some)
    assert list(data["a/weight_change"]["seed"].values) == [5]
    assert decide(STUDY, data)[0][1].outcome == "inconclusive"


def test_a_variant_without_runs_is_an_error():
    some = {key: value for key, value in measured().items() if key[0] == "a"}
    with pytest.raises(LayerscopeError, match="no run of variant 'b'"):
        collect(STUDY, some)


def test_what_is_written_reads_back(tmp_path):
    data = collect(STUDY, measured())
    study, claims = write(data, decide(STUDY, data), tmp_path)
    with xr.open_datatree(study, engine="netcdf4") as found:
        np.testing.assert_array_equal(
            found["b/weight_change/change"].values, data["b/weight_change/change"].values
        )
    assert '"verdict": "holds"' in claims.read_text()


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_be_given_once(seeds):
    with pytest.raises(LayerscopeError, match="seeds"):
        replace(STUDY, seeds=seeds)


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_captions_say_in_what_the_data_differ_from_the_original(scale):
    values = xr.DataArray([1.0, 2.0], dims="layer", coords={"layer": ["x", "y"]})
    study = replace(
        STUDY,
        scale=scale,
        reduction="Less.",
        figures=lambda data: [Bars(values, key="a", title="A", caption="What.")],
    )
    data = collect(STUDY, measured())
    plain = {"paper": "What.", "small": "What. Less."}[scale]
    assert [figure.caption for figure in study.draw(data)] == [plain]
    data.attrs[FIDELITY] = "Data: mnist: upside down."
    (figure,) = study.draw(data)
    assert figure.caption == f"{plain} Data: mnist: upside down."
    assert figure.title == "A" + " (small scale)" * (scale == "small")
