from dataclasses import replace

import pytest

from layerscope.config import Digits, Images, RunConfig, Sine
from layerscope.errors import LayerscopeError
from layerscope.studies.plan import Plan, Variant

CONFIG = RunConfig(data=Sine(n_train=1000), epochs=10, batch_size=100, milestones=(4, 8))


def variant(**changes):
    return Variant("a", "A", replace(CONFIG, **changes))


def plan(**options):
    halved = lambda config: replace(config, milestones=(config.epochs // 2,))  # noqa: E731
    configs = {"a": ("A", halved(CONFIG)), "b": ("B", halved(replace(CONFIG, epochs=20)))}
    return Plan(configs, (0, 1), lambda runs: f"{runs.first.epochs}", timed=halved, **options)


def test_nothing_replaced_is_what_was_planned():
    runs = plan().resolved("small")
    assert runs.configs == {name: config for name, (_, config) in plan().variants.items()}
    assert (runs.seeds, runs.first.label, runs["b"].epochs) == ((0, 1), "A", 20)


def test_what_follows_from_a_setting_follows():
    runs = plan().resolved("small", {"epochs": 6}, seeds=(3, 4))
    assert [v.config.milestones for v in runs.values()] == [(3,), (3,)]
    assert (runs.seeds, runs["b"].label) == ((3, 4), "B")
    assert plan().reduction(runs) == "6"
    given = plan().resolved("small", {"epochs": 6, "milestones": (5,)})
    assert given["a"].config.milestones == (5,)


def test_an_unknown_variant():
    with pytest.raises(LayerscopeError, match="unknown variant 'c'"):
        plan().resolved("small")["c"]


KEPT = {
    "every epoch": ("epochs(1)", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
    "every fourth, and the end": ("epochs(4)", (4, 8, 10)),
    "steps that end epochs": ("at(10, 15, 30)", (1, 3, 10)),
    "both": ("at(10) | epochs(5)", (1, 5, 10)),
}


@pytest.mark.parametrize(("checkpoints", "kept"), KEPT.values(), ids=KEPT)
def test_epochs_at_whose_end_a_checkpoint_is_kept(checkpoints, kept):
    found = variant(checkpoints=checkpoints)
    assert found.kept == kept
    assert found.until(4) == max(e for e in kept if e <= max(4, kept[0]))


def test_kept_epochs_of_sets_of_unknown_size():
    found = variant(data=Images("my/own"), checkpoints="at(10) | epochs(5)")
    assert found.kept == (5, 10)
    assert variant(data=Digits(), checkpoints="at(15)").kept == (1, 10)


def test_where_the_learning_rate_falls():
    assert variant().drops == (4, 8)
    assert [(m.value, m.label, m.axis) for m in variant(decay=0.2).marks()] == [
        (4.0, "learning rate / 5", "x"),
        (8.0, "learning rate / 5", "x"),
    ]
    assert (variant().drop, variant(milestones=(10,)).drop) == (4, 10)
    assert variant(milestones=(10, 12)).marks() == ()


def test_where_the_learning_rate_falls_at_plateaus_every_run_says_for_itself():
    found = variant(milestones=(), schedule="plateau")
    assert found.marks() == ()
    for name in ("drops", "drop"):
        with pytest.raises(LayerscopeError, match=r"runs of a .*plateau.*\n.*rate_drops"):
            getattr(found, name)


def test_shares_of_the_papers_length():
    assert (variant().share(50, 120), variant().share(1, 120), variant().share(1, 120, 2)) == (
        4,
        1,
        2,
    )
