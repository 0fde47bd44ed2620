from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, CNN, classes
from tests.reference.linearity_probes import inputs_of
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.fcn import residual_fcn
from layerscope.models.resnet import resnet
from layerscope.networks.layers import LayerMap
from layerscope.networks.linear_maps import (
    MOST_ENTRIES,
    Window,
    applied,
    find_windows,
    most_rows,
    paired_rows,
)
from layerscope.probes import LinearShare, measure
from layerscope.probes.base import Moment
from layerscope.surgery import linearise


def measured(probe, model, batch, **map):
    layers = LayerMap.from_model(model, batch, forward=CLASSIFY.forward, **map)
    moment = Moment(0, dict(model.state_dict()), model=model, task=CLASSIFY, batch=batch)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


def narrow(stages=(1, 1), size=12, n=400, seed=0, **options):
    torch.manual_seed(seed)
    model = resnet((2, size, size), 4, 18, version=1, width=1 / 16, stages=stages, **options).eval()
    return model, classes(2, size, size, n=n, n_classes=4)(1)


def test_a_network_of_linear_sites_is_linear_everywhere():
    model, batch = narrow()
    model = linearise(model, "all", batch[0][:2])
    _, found, _ = measured(LinearShare(), model, batch)
    np.testing.assert_allclose(found["linear_share"], 1.0, atol=1e-9)
    np.testing.assert_allclose(found["affinity"], 1.0, atol=1e-5)
    rows, found, moment = measured(LinearShare(of="layers"), model, batch, unit="block")
    assert moment.missing == {}
    assert set(rows.names) >= {"stage0.conv", "stage1.resblk1", "stage2.resblk1", "final_linear"}
    np.testing.assert_allclose(found["linear_share"], 1.0, atol=1e-6)


def test_rectifiers_are_less_than_linear_and_more_so_for_shifted_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)
    )
    nn.init.constant_(model[2].bias, 8.0)
    _, found, _ = measured(LinearShare(), model, classes(20, n=500, n_classes=4)(0))
    shares, scores = found["linear_share"].tolist(), found["affinity"].tolist()
    assert shares[0] == pytest.approx(0.73, abs=0.05)  # standard normal values have 0.733
    assert shares[1] == pytest.approx(1.0, abs=1e-9)
    assert 0.5 < scores[0] < 0.75
    assert scores[1] == pytest.approx(1.0, abs=1e-6)


def test_site_values_equal_polyfit_node_by_node():
    model, batch = narrow(n=40)
    rows, found, _ = measured(LinearShare(), model, batch)
    seen = inputs_of(model, rows.names, batch)
    for i, name in enumerate(rows.names):
        per_node = []
        for node in range(seen[name].shape[1]):
            x = seen[name][:, node].double().flatten().numpy()
            y = np.maximum(x, 0)
            rest = y - np.polyval(np.polyfit(x, y, 1), x)
            per_node.append(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum() if np.ptp(y) else 1.0)
        assert float(found["linear_share"][i]) == pytest.approx(np.mean(per_node), rel=1e-6)


def test_the_residual_stream_makes_a_layer_look_linear():
    torch.manual_seed(0)
    model = residual_fcn((20,), 4, blocks=3, width=16)
    batch, unit = classes(20, n=500, n_classes=4)(0), ("input", "blocks.*", "output")
    rows, found, _ = measured(LinearShare(of="layers"), model, batch, unit=unit)
    _, inside, moment = measured(LinearShare(of="inside"), model, batch, unit=unit)
    shares, without = (f["linear_share"].numpy() for f in (found, inside))
    assert rows.names[1:4] == ("blocks.0", "blocks.1", "blocks.2")
    assert (shares[1:4] > without[1:4] + 0.01).all()
    assert shares[0] == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(without[[0, 4]]).all()
    assert set(moment.missing.values()) == {"does not keep the shape of what enters"}


def test_held_out_share_of_noise_is_near_zero_or_says_that_samples_are_too_few():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            generator = torch.Generator().manual_seed(len(x))
            return self.scale * torch.randn(len(x), 30, generator=generator)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), Noise(), nn.Linear(30, 4))
    rows, found, _ = measured(LinearShare(of="layers"), model, classes(20, n=500, n_classes=4)(0))
    assert rows.names == ("0", "1", "2")
    assert abs(float(found["linear_share"][1])) < 0.1
    wide = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 4))
    _, found, moment = measured(LinearShare(of="layers"), wide, classes(4, n=60, n_classes=4)(0))
    assert found["linear_share"].isnan().tolist() == [False, True]
    assert list(moment.missing) == ["2"]
    assert "samples for its 60 inputs; there are 60" in moment.missing["2"]


def test_transformers_are_fitted_by_position():
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True), nn.Flatten())
    model.append(nn.Linear(30, 4))
    _, found, moment = measured(
        LinearShare(of="layers"), model, classes(5, 6, n=120, n_classes=4)(0), unit=("0", "2")
    )
    assert moment.missing == {}
    assert 0.5 < float(found["linear_share"][0]) < 1


def test_windows_are_the_fields_of_stacked_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    batch = classes(1, 16, 16)(0)
    found = find_windows(model, batch, CLASSIFY, ["0", "1", "2", "4"])
    assert found == {
        "0": Window((3, 3), (1, 1), (1, 1)),
        "1": Window((7, 7), (2, 2), (3, 3)),
        "2": None,
    }


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_of_windows_are_convolutions(stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 5, 3, stride, 1).double()
    x = torch.randn(4, 2, 9, 9, dtype=torch.float64)
    window = Window((3, 3), (stride, stride), (1, 1))
    weight = conv.weight.flatten(1).T
    output = conv(x)
    torch.testing.assert_close(applied(x, output, window, weight, conv.bias), output)
    inputs, outputs = paired_rows(x, output, window)
    torch.testing.assert_close(inputs @ weight + conv.bias, outputs)
    assert len(inputs) == 4 * {1: 7, 2: 3}[stride] ** 2  # those whose window lies inside


def test_rows_are_ten_per_feature_as_far_as_memory_goes():
    assert most_rows(10) == 5000
    assert most_rows(3000) == 30_000
    assert most_rows(6000) * 6000 <= MOST_ENTRIES
    assert most_rows(100_000) == 300_000


def test_keys_and_refusals():
    assert LinearShare(of="layers").key == "linear_share,of=layers"
    with pytest.raises(LayerscopeError, match="layer"):
        LinearShare(of="layer")


@pytest.mark.parametrize("of", ["sites", "layers"])
def test_figures_of_a_measured_run(run, of):
    probe = LinearShare(of=of)
    dataset = measure(probe, run, model=CNN.model(8), task=CNN.task)
    figures = probe.figures(dataset)
    assert len({figure.key for figure in figures}) == len(figures) >= 2


def test_a_rectifier_is_something_to_compare_with_where_all_are_rectifiers(run):
    dataset = measure(LinearShare(), run, model=CNN.model(8), task=CNN.task)
    assert set(dataset["kind"].values) == {"ReLU"}
    mixed = dataset.assign_coords(kind=("layer", ["Tanh", *dataset["kind"].values[1:]]))
    of_all, of_some = (LinearShare().figures(made)[1].references for made in (dataset, mixed))
    assert [line.value for line in of_all] == [1.0, pytest.approx(0.7335, abs=1e-4)]
    assert [line.value for line in of_some] == [1.0]
