"""What checkpoints that come from fairseq call the modules of a layer.

Source: Ott et al. 2019, arXiv:1904.01038; transformers 5.24, models/opt, models/biogpt, models/xglm.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FAIRSEQ_LAYER"]

FAIRSEQ_LAYER: Mapping[str, str] = {
    "ln1": "self_attn_layer_norm",
    "mixer.q": "self_attn.q_proj",
    "mixer.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.o": "self_attn.out_proj",
    "ln2": "final_layer_norm",
    "channel.in": "fc1",
    "channel.out": "fc2",
}
"""Our modules inside a layer -> the checkpoint's."""
