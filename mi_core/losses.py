"""How well the logits predict the tokens that came."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError
from mi_core.layout import Layout

__all__ = ["losses_of"]


def losses_of(logits: Float[Tensor, "batch pos d_vocab"], layout: Layout) -> Float[Tensor, "batch pos"]:
    """The cross-entropy (nats, float32) of each token given those before it; 0 where there is none to predict.

    Raises:
        InputError: the model reads numbers, and predicts no next one.
    """
    if layout.ids.is_floating_point():
        raise InputError("this model reads numbers and predicts no next one, so there is no loss of its inputs.")
    targets = layout.ids[:, 1:].to(logits.device)
    predicted = logits[:, :-1].float().log_softmax(-1)
    losses = -predicted.gather(-1, targets[..., None])[..., 0]
    real = (torch.arange(1, layout.width) < layout.length[:, None]).to(logits.device)
    losses = torch.where(real, losses, torch.zeros((), device=logits.device))
    return torch.nn.functional.pad(losses, (1, 0))
