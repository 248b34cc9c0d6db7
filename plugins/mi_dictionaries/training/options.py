"""What is trained: one class of options for each architecture, by SAELens' names.

Source: SAELens 6.54, ``sae_lens/saes``: the training configs and their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from mi_core.errors import BadConfig

__all__ = [
    "ARCHITECTURES",
    "AbsTopK",
    "BatchTopK",
    "CrossLayer",
    "Gated",
    "JumpReLU",
    "MatchingPursuit",
    "MatryoshkaBatchTopK",
    "Options",
    "Standard",
    "TopK",
    "options_of",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every architecture has."""

    architecture: ClassVar[str]

    d_sae: int
    decoder_init_norm: float | None = 0.1
    """The norm of each decoder row at the start; None: as drawn."""
    apply_b_dec_to_input: bool | None = None
    """Subtract the decoder's bias from the input; None: for autoencoders yes, for transcoders no."""
    skip: bool = False
    """Add a linear map of the input to the output: a skip transcoder."""

    def __post_init__(self) -> None:
        if self.d_sae < 1:
            raise BadConfig(f"d_sae={self.d_sae!r}: a dictionary has at least one feature.", field="d_sae")
        self.check()

    def check(self) -> None:
        """Refuse what cannot be trained."""

    def written(self) -> dict[str, Any]:
        """The options as JSON; `options_of` reads them."""
        return {"architecture": self.architecture, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Standard(Options):
    """ReLU, and a penalty on the p-norm of what each feature writes."""

    architecture = "standard"
    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0
    lp_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Gated(Options):
    """A gate that says whether, and a magnitude that says how much.

    Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders".
    """

    architecture = "gated"
    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class TopK(Options):
    """The k largest of each token, and dead features set on what is left over.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """

    architecture = "topk"
    k: float = 100
    aux_loss_coefficient: float = 1.0
    rescale_acts_by_decoder_norm: bool = True

    def check(self) -> None:
        """A whole number of features, unless they are counted over a batch."""
        if not 0 < self.k <= self.d_sae or (self.architecture in ("topk", "abstopk") and self.k != int(self.k)):
            raise BadConfig(f"k={self.k!r} of d_sae={self.d_sae!r}: give a whole number up to d_sae.", field="k")


@dataclass(frozen=True, kw_only=True)
class AbsTopK(TopK):
    """The k largest of each token by absolute value, with their signs.

    Source: arXiv 2510.00404, "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features".
    """

    architecture = "abstopk"


@dataclass(frozen=True, kw_only=True)
class BatchTopK(TopK):
    """k features for each token on average over a batch; a threshold afterwards.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders".
    """

    architecture = "batchtopk"
    topk_threshold_lr: float = 0.01


@dataclass(frozen=True, kw_only=True)
class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK whose first features reconstruct alone, at several widths.

    Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders".
    """

    architecture = "matryoshka_batchtopk"
    matryoshka_widths: tuple[int, ...] = ()
    use_matryoshka_aux_loss: bool = False

    @property
    def levels(self) -> tuple[int, ...]:
        """The widths, the whole one last."""
        widths = self.matryoshka_widths
        return widths if widths and widths[-1] == self.d_sae else (*widths, self.d_sae)

    def check(self) -> None:
        """Widths that grow."""
        super().check()
        if list(self.levels) != sorted({width for width in self.levels if width > 0}):
            raise BadConfig(
                f"matryoshka_widths={self.matryoshka_widths!r} of d_sae={self.d_sae!r}: give growing widths.",
                field="matryoshka_widths",
            )


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Options):
    """A threshold for each feature, learned through a rectangle of a bandwidth.

    Sources: Rajamanoharan et al. 2024, "Jumping Ahead" (step); Anthropic's January 2025 update (tanh, pre-activation
    loss); Gemma Scope 2 (quadratic).
    """

    architecture = "jumprelu"
    jumprelu_init_threshold: float = 0.01
    jumprelu_bandwidth: float = 0.05
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    l0_coefficient: float = 1.0
    l0_warm_up_steps: int = 0
    pre_act_loss_coefficient: float | None = None
    jumprelu_tanh_scale: float = 4.0
    jumprelu_ste_to_input: bool = False
    target_l0: float | None = None

    def check(self) -> None:
        """A known penalty, and the target that one of them needs."""
        if self.jumprelu_sparsity_loss_mode not in ("step", "tanh", "quadratic"):
            raise BadConfig(
                f"jumprelu_sparsity_loss_mode={self.jumprelu_sparsity_loss_mode!r}: give step, tanh or quadratic.",
                field="jumprelu_sparsity_loss_mode",
            )
        wanted = self.jumprelu_sparsity_loss_mode == "quadratic"
        if wanted and not 0 < (self.target_l0 or 0) <= self.d_sae:
            raise BadConfig(
                f"target_l0={self.target_l0!r}: the quadratic penalty needs a number of features up to {self.d_sae}.",
                field="target_l0",
            )


@dataclass(frozen=True, kw_only=True)
class MatchingPursuit(Options):
    """Features one after the other, each the one that says most of what is left.

    Source: Costa et al. 2025, "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    """

    architecture = "matching_pursuit"
    decoder_init_norm: float | None = 1.0
    residual_threshold: float = 1e-2
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True


@dataclass(frozen=True, kw_only=True)
class CrossLayer(Options):
    """Features of every layer, each written to its own layer and to all behind it; ``d_sae`` in each layer.

    ``activation`` ``"jumprelu"``: a learned threshold and the penalty ``tanh(scale x norm of all it writes x value)``;
    ``"batchtopk"``: k for each token on average over a batch, of all layers together; thresholds afterwards.

    Source: Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models", appendix.
    """

    architecture = "cross_layer_transcoder"
    activation: Literal["jumprelu", "batchtopk"] = "jumprelu"
    k: float | None = None
    aux_loss_coefficient: float = 1.0
    topk_threshold_lr: float = 0.01
    l0_coefficient: float = 1.0
    l0_warm_up_steps: int = 0
    jumprelu_init_threshold: float = 0.03
    jumprelu_bandwidth: float = 1.0
    jumprelu_tanh_scale: float = 4.0
    pre_act_loss_coefficient: float | None = 3e-6

    def check(self) -> None:
        """A k where features are counted."""
        if self.activation not in ("jumprelu", "batchtopk"):
            raise BadConfig(f"activation={self.activation!r}: give jumprelu or batchtopk.", field="activation")
        if (self.activation == "jumprelu") != (self.k is None):
            raise BadConfig(f"activation={self.activation!r} with k={self.k!r}: k belongs to batchtopk.", field="k")


ARCHITECTURES: dict[str, type[Options]] = {
    kind.architecture: kind
    for kind in (
        Standard,
        Gated,
        TopK,
        AbsTopK,
        BatchTopK,
        MatryoshkaBatchTopK,
        JumpReLU,
        MatchingPursuit,
        CrossLayer,
    )
}
"""The options of each architecture, by SAELens' name."""


def options_of(written: Mapping[str, Any]) -> Options:
    """Options from a mapping: ``architecture``, and what that architecture has.

    >>> options_of({"architecture": "topk", "d_sae": 64, "k": 8}).k
    8

    Raises:
        BadConfig: an architecture that there is not, or an option that it has not.
    """
    given = dict(written)
    name = given.pop("architecture", None)
    if name not in ARCHITECTURES:
        raise BadConfig(f"architecture={name!r}: give one of {', '.join(ARCHITECTURES)}.", field="architecture")
    kind = ARCHITECTURES[name]
    unknown = sorted(given.keys() - {field.name for field in fields(kind)})
    if unknown:
        known = ", ".join(field.name for field in fields(kind))
        raise BadConfig(f"{name} has no option {unknown[0]!r}. It has: {known}.", field=unknown[0])
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return kind(**values)
