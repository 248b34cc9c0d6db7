"""PCA of activations: along which few directions do prompts differ?

Reach for it to see structure that you did not ask for: clusters, lines, rings. Directions of large variance need not be
ones that the model uses: steer along them or patch within them to find out.

Source: Pearson 1901; Hotelling 1933; the variances are those of scikit-learn 1.7, decomposition.PCA (divided by n - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["ActivationPCA", "activation_pca"]

NEEDS = ("hook_resid_post",)


@dataclass(frozen=True, kw_only=True, eq=True)
class ActivationPCA(Result):
    """The principal components of each layer's activations, each turned so that its largest entry is positive."""

    share: Labelled
    """Of the variance that each component holds: layer component."""
    variance: Labelled
    """Along each component, divided by the number of samples less one: layer component."""
    scores: Labelled
    """Where each sample lies along each component, from the mean: layer sample component."""
    components: Labelled
    """Unit vectors, orthogonal to each other: layer component d_model."""
    mean: Labelled
    """Of all samples: layer d_model."""
    labels: tuple[str, ...]
    """What each sample is called."""
    site: str

    title: ClassVar[str] = "PCA of activations"
    template: ClassVar[str] = "mi_analyses/activation_pca.html"
    views: ClassVar[str] = "mi_analyses.activation_pca_view"

    def project(self, x: Float[Tensor, "*rows d_model"], layer: int) -> Float[Tensor, "*rows component"]:
        """Where other activations lie along the components of a layer."""
        mean, components = self.mean.sel(layer=layer).values, self.components.sel(layer=layer).values
        return (x.float().to(mean.device) - mean) @ components.T

    def reconstruct(self, scores: Float[Tensor, "*rows component"], layer: int) -> Float[Tensor, "*rows d_model"]:
        """The activations that have these scores, and the mean in all other directions."""
        mean, components = self.mean.sel(layer=layer).values, self.components.sel(layer=layer).values
        return mean + scores.float().to(mean.device) @ components


def activation_pca(
    model: mi.Model,
    inputs: Any,
    *,
    site: str = "hook_resid_post",
    layers: int | Sequence[int] | None = None,
    pos: Any = -1,
    n_components: int = 3,
    labels: Sequence[str] | None = None,
    spec: mi.HookSpec | None = None,
    batch_tokens: int | None = None,
    attention_mask: Any = None,
) -> ActivationPCA:
    """Along which few directions do the activations of prompts differ?

    Args:
        model: any model with the site.
        inputs: prompts, as in `Model.run`; each gives one sample.
        site: where, without the layer; its last dim is what varies, and it has no other than batch and pos.
        layers: which; None for all that have the site.
        pos: one position of each prompt: -1, or ``mi.Span("France").last``.
        n_components: how many.
        labels: what each prompt is called; by default its text.
        spec: interventions that are in force.
        batch_tokens: as in `Model.run`.
        attention_mask: as in `Model.run`.

    Raises:
        UnsupportedAnalysis: the model does not have the site.
        SelectorError: fewer than two prompts, more components than prompts or dims allow, other labels than prompts, or
            a selector of several positions.
    """
    require(model, [site], "activation_pca")
    found = model.hook_points(f"blocks.*.{site}")[0].site
    if found.dims[:2] != ("batch", "pos") or len(found.dims) != 3:
        raise SelectorError(f"activation_pca takes sites of batch, pos and one more dim; {site!r} has {found.dims}.")
    reads = mi.capture(f"blocks.*.{site}").at(pos=pos)
    reads = reads if layers is None else reads.at(layer=layers)
    whole = reads if spec is None else spec + reads
    run = model.run(inputs, whole, logits=None, batch_tokens=batch_tokens, attention_mask=attention_mask)
    values = run.stack(site).float().cpu()
    if values.ndim == 4 and values.shape[2] != 1:
        raise SelectorError(f"pos={pos!r} selects {values.shape[2]} positions of each prompt: select one.", pos=pos)
    values = values.flatten(1, -2)
    most = min(values.shape[1] - 1, values.shape[2])
    if not 1 <= n_components <= most:
        raise SelectorError(
            f"n_components={n_components}: {values.shape[1]} prompts of {values.shape[2]} dims have from 1 to {most} "
            "components. Give more prompts."
        )
    names = tuple("".join(row) for row in run.text_tokens) if labels is None else tuple(labels)
    if len(names) != values.shape[1]:
        raise SelectorError(f"{len(names)} labels for {values.shape[1]} prompts: give one for each.")
    return ActivationPCA(
        provenance=ResultProvenance.of(model, run, whole, inputs),
        labels=names,
        site=site,
        **decomposed(values, run.layers(site), n_components, names),
    )


def decomposed(
    values: Float[Tensor, "layer sample d_model"], layers: Sequence[int], count: int, names: Sequence[str]
) -> dict[str, Labelled]:
    """The components of each layer, by a singular value decomposition of what is left without the mean."""
    mean = values.mean(1)
    left, singular, right = torch.linalg.svd(values - mean[:, None], full_matrices=False)
    largest = right.gather(2, right.abs().argmax(2, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    variance = singular**2 / (values.shape[1] - 1)
    scores = left * singular[:, None] * sign.transpose(1, 2)
    at: dict[str, Sequence[Label]] = {"layer": tuple(layers), "component": tuple(range(1, count + 1))}
    sample = {"sample": tuple(range(len(names)))}
    share = variance / variance.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "share": Labelled(share[:, :count], ("layer", "component"), at, "share of variance"),
        "variance": Labelled(variance[:, :count], ("layer", "component"), at, "variance"),
        "scores": Labelled(scores[..., :count], ("layer", "sample", "component"), {**at, **sample}, "score"),
        "components": Labelled((right * sign)[:, :count], ("layer", "component", "d_model"), at, "component"),
        "mean": Labelled(mean, ("layer", "d_model"), {"layer": tuple(layers)}, "mean"),
    }


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about PCA."""
    return Analysis("Along which few directions do the activations of prompts differ?", NEEDS, activation_pca)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi pca``."""
    from mi_analyses.activation_pca_command import pca

    return pca
