import pytest
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.fcn import fcn
from layerscope.networks.layers import LayerMap
from layerscope.probes.resets import marked

STAGED = nn.ModuleDict(
    {
        "stem": nn.Linear(1, 1),
        "stage1": nn.ModuleDict({f"block{i}": nn.Linear(1, 1) for i in range(1, 5)}),
        "stage2": nn.ModuleDict({f"block{i}": nn.Linear(1, 1) for i in range(1, 3)}),
        "head": nn.Linear(1, 1),
    }
)
RULES = {
    "plain": ("all_but_first", {"layer2", "layer3", "layer4", "layer5", "output"}),
    "two of three": ("two_of_three", {"layer2", "layer3", "layer5", "output"}),
    "every other": ("every_other", {"layer2", "layer4", "output"}),
    "patterns": (("layer[34]", "output"), {"layer3", "layer4", "output"}),
}
STAGES = {
    "all_but_first": {"stage1.block2", "stage1.block3", "stage1.block4", "stage2.block2"},
    "two_of_three": {"stage1.block2", "stage1.block3", "stage2.block2"},
    "every_other": {"stage1.block2", "stage1.block4", "stage2.block2"},
}


def chosen(rule, layers):
    return {name for name, yes in zip(layers.names, marked(rule, layers), strict=True) if yes}


@pytest.mark.parametrize(("rule", "expected"), RULES.values(), ids=RULES)
def test_rules_on_a_plain_network(rule, expected):
    assert chosen(rule, LayerMap.from_model(fcn((4,), 3, depth=5, width=4), None)) == expected


@pytest.mark.parametrize(("rule", "expected"), STAGES.items(), ids=STAGES)
def test_rules_count_inside_each_stage(rule, expected):
    assert chosen(rule, LayerMap.from_model(STAGED, None)) == expected


def test_an_unknown_rule_is_an_error():
    with pytest.raises(LayerscopeError, match="unknown rule 'odd'"):
        marked("odd", LayerMap.from_model(STAGED, None))
