"""``mi head-circuits``: what heads' weights say, from a shell."""

from __future__ import annotations

from mi_analyses.options import Device, DType, Html, Json, ModelName, Quantise, check_folders, deliver

__all__ = ["head_circuits"]


def head_circuits(
    model: ModelName,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What do heads' weights copy, match and feed each other?

    Runs no prompt: prints how much each head's weights copy what they read, look for the token that they stand on, and
    which pairs of heads compose most.
    """
    check_folders(html, json)

    import mi_core as mi
    from mi_analyses.head_circuits import head_circuits as analysis

    deliver(analysis(mi.load(model, device=device, dtype=dtype, quantise=quantise)), html, json)
