import pytest
import torch
from scipy import stats
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.surgery import fresh_weights


class Wide(nn.Module):
    """Initialises its second layer in its own way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 200), nn.Linear(200, 50)
        nn.init.normal_(self.second.weight, std=3.0)


def test_draws_come_from_each_layers_own_initialiser():
    model = Wide()
    fresh = fresh_weights(model, ["first", "second"], 7, factory=Wide)
    for name in ("first.weight", "second.weight"):
        own, drawn = (t[name].flatten() for t in (model.state_dict(), fresh))
        assert stats.ks_2samp(own.numpy(), drawn.numpy()).pvalue > 0.01
        assert not torch.equal(own, drawn)
    # reset_parameters knows nothing of what the constructor did afterwards
    reset = fresh_weights(model, ["second"], 7)["second.weight"].flatten()
    assert stats.ks_2samp(model.second.weight.detach().flatten().numpy(), reset).pvalue < 1e-6


@pytest.mark.parametrize("factory", [None, Wide])
def test_draws_repeat_by_seed_and_leave_everything_as_found(factory):
    model = Wide()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    first, again, other = (fresh_weights(model, ["first"], s, factory) for s in (1, 1, 2))
    assert set(first) == {"first.weight", "first.bias"}
    assert torch.equal(first["first.weight"], again["first.weight"])
    assert not torch.equal(first["first.weight"], other["first.weight"])
    assert all(map(torch.equal, before, model.parameters()))
    assert torch.equal(state, torch.get_rng_state())


def test_a_module_that_cannot_reset_itself_needs_a_factory():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    model = nn.Sequential(Scale())
    with pytest.raises(LayerscopeError, match=r"'0' \(Scale\) has no reset_parameters"):
        fresh_weights(model, ["0"], 0)
    found = fresh_weights(model, ["0"], 0, factory=lambda: nn.Sequential(Scale()))
    assert torch.equal(found["0.scale"], torch.ones(3))


def test_a_factory_of_another_model_is_refused():
    with pytest.raises(LayerscopeError, match=r"does not fit .* 'first.weight'"):
        fresh_weights(
            Wide(), ["first"], 0, factory=lambda: nn.ModuleDict({"first": nn.Linear(2, 2)})
        )
