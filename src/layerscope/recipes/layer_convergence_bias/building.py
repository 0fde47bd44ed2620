"""What the recipes on images share: studies, claims of one difference, convergence curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from layerscope.config import RunConfig
from layerscope.recipes.layer_convergence_bias.networks import SEEDS
from layerscope.recipes.layer_convergence_bias.settings import PAPER, suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.probes import Probe
    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Scale, Study


def make_study(
    scale: Scale,
    figure: str,
    title: str,
    summary: str,
    reduction: str,
    variants: Mapping[str, RunConfig],
    probes: Sequence[Probe],
    claims: Sequence[Claim],
    figures: Callable[[xr.DataTree], list[Figure]],
    source: str = "",
    seeds: tuple[int, ...] | None = None,
    may_diverge: frozenset[str] = frozenset(),
) -> Study:
    """A study of this paper, by default with the seeds that networks on images have."""
    from layerscope.studies.study import Study

    return Study(
        name=f"layer_convergence_bias.{figure}",
        title=title,
        source=source or f"{PAPER} {figure.replace('fig', 'Fig. ')}",
        summary=summary,
        reduction=reduction,
        scale=scale,
        variants=variants,
        seeds=seeds or SEEDS[scale],
        probes=tuple(probes),
        claims=tuple(claims),
        figures=figures,
        may_diverge=may_diverge,
    )


def on_images(recipe: Callable[..., Study]) -> Callable[..., Study]:
    """A recipe whose study also shows test errors, and decides nothing on untrained networks.

    What a layer of a network at chance does is no evidence on how layers learn.
    """

    @wraps(recipe)
    def made(*arguments: Any, **options: Any) -> Study:
        from layerscope.probes import Performance
        from layerscope.recipes.layer_convergence_bias import deciding

        study = recipe(*arguments, **options)
        chance = {name: deciding.chance(config) for name, config in study.variants.items()}
        tested = any(isinstance(probe, Performance) for probe in study.probes)
        return replace(
            study,
            probes=(*study.probes, *([] if tested else [Performance()])),
            claims=tuple(
                replace(
                    claim,
                    decide=deciding.if_learnt(
                        {name: chance[name] for name in claim.variants or chance}, claim.decide
                    ),
                )
                for claim in study.claims
            ),
            figures=lambda data: [*study.figures(data), _errors(data, chance, study.scale)],
        )

    return made


def _errors(data: xr.DataTree, chance: Mapping[str, float], scale: Scale) -> Figure:
    from layerscope.figures.figure import Bars
    from layerscope.recipes.layer_convergence_bias import deciding

    values = deciding.along("network", chance, [deciding.error(data, name) for name in chance])
    guessing = ", ".join(f"{value:g}%" for value in sorted(set(chance.values())))
    return Bars(
        values.reset_coords(drop=True).assign_attrs(long_name="test error", units="%"),
        key="test-error",
        title="How well the networks have learnt" + suffix(scale),
        caption=f"Test error at the end of training; mean and 95% interval over seeds. Guessing "
        f"gives {guessing}; claims on networks near that are not decided.",
        x="network",
    )


def curves(
    data: xr.DataTree, titles: Mapping[str, str], scale: Scale, only: Sequence[str] = ()
) -> list[Figure]:
    """Convergence over epochs of every variant."""
    from layerscope.figures.figure import Lines
    from layerscope.recipes.layer_convergence_bias import deciding

    return [
        Lines(
            deciding.present(deciding.node(data, variant, "convergence")["curve"], only).swap_dims(
                step="epoch"
            ),
            key=f"convergence-{variant}",
            title=title + suffix(scale),
            caption="Distance to the final weights over the distance at initialisation; mean and "
            "95% interval over seeds.",
            x="epoch",
        )
        for variant, title in titles.items()
    ]


def difference(
    probe: str, variable: str, variant: str, more: str, less: str, interval: int | None = None
) -> Callable[[xr.DataTree], xr.DataArray]:
    """One layer's value less another's, (seed,)."""
    from layerscope.recipes.layer_convergence_bias import deciding

    def effect(data: xr.DataTree) -> xr.DataArray:
        values = deciding.node(data, variant, probe)[variable]
        if interval is not None:
            values = values.isel(interval=interval)
        return values.sel(layer=more, drop=True) - values.sel(layer=less, drop=True)

    return effect


def make_claim(
    name: str,
    text: str,
    source: str,
    effect: Callable[[xr.DataTree], xr.DataArray],
    statistic: str,
    threshold: float = 0.0,
    variants: Sequence[str] = (),
) -> Claim:
    """A claim, on some variants or all, that holds where an effect exceeds a threshold."""
    from layerscope.studies.claims import Claim, above

    def decide(data: xr.DataTree) -> Verdict:
        return above(effect(data), statistic, threshold)

    return Claim(name, text, f"{PAPER} {source}", decide, tuple(variants))
