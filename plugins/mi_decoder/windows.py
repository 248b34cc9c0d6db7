"""Which layers attend within a window, from a checkpoint's config in both spellings that are in use."""

from __future__ import annotations

from collections.abc import Callable

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.translation import or_none

__all__ = ["alternating_windows", "layer_windows", "upper_windows"]

KINDS = ("full_attention", "sliding_attention")


def layer_windows(config: Config, window: int | None, is_sliding: Callable[[int], bool]) -> list[int | None]:
    """The window of each layer: by ``layer_types``, or by the family's rule where older files lack the key.

    Raises:
        BadConfig: another number of layers than there are, an unknown kind, or a sliding layer without a window.

    Source: transformers 5.24, PreTrainedConfig.validate_layer_type.
    """
    n_layers = config.size("num_hidden_layers")
    kinds = config.get("layer_types") or [KINDS[is_sliding(index)] for index in range(n_layers)]
    if not isinstance(kinds, list) or len(kinds) != n_layers or any(kind not in KINDS for kind in kinds):
        raise BadConfig(
            f"{config.where}: 'layer_types' is {kinds!r}, it must be a list of {n_layers} of {', '.join(KINDS)}.",
            path=config.where,
        )
    if window is None and KINDS[1] in kinds:
        raise BadConfig(
            f"{config.where}: 'layer_types' has sliding layers, but no window is in use: set 'sliding_window'.",
            path=config.where,
        )
    return [window if kind == KINDS[1] else None for kind in kinds]


def upper_windows(config: Config) -> list[int | None]:
    """Windows from ``max_window_layers`` on, if ``use_sliding_window`` says so.

    Source: transformers 5.24, Qwen2Config.
    """
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    first = config.size("max_window_layers", default=28, at_least=0)
    if not config.flag("use_sliding_window", default=False):
        window = None
    return layer_windows(config, window, lambda index: window is not None and index >= first)


def alternating_windows(config: Config, period: int) -> list[int | None]:
    """Windows on all layers but each ``sliding_window_pattern``-th, 4096 wide where the key is absent.

    ``period`` is the family's pattern where the config gives none. Source: transformers 5.24, Gemma3TextConfig.
    """
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    period = config.size("sliding_window_pattern", default=period)
    return layer_windows(config, window, lambda index: (index + 1) % period != 0)
