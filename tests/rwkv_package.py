"""What the package ``rwkv`` computes: ``python rwkv_package.py MODEL.pth IDS.json OUT.safetensors``.

A process of its own: the seventh version needs a switch in the environment before the package is imported, and the
package then knows no other.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def main(path: str, ids: str, out: str) -> None:
    """Logits at every token, and the state behind the last, under our names and in our layout."""
    from rwkv.model import RWKV

    model = RWKV(model=path.removesuffix(".pth"), strategy="cpu fp32")
    logits, state = model.forward(json.loads(Path(ids).read_text()), None, full_output=True)
    tensors = {"logits": logits} | carried(
        state, len(state) // model.args.n_layer, seventh=os.environ.get("RWKV_V7_ON") == "1"
    )
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, out)


def carried(state: list[Tensor], each: int, *, seventh: bool) -> dict[str, Tensor]:
    """Shifts and states of all layers."""
    found = {}
    for layer, begin in enumerate(range(0, len(state), each)):
        parts = state[begin : begin + each]
        # five tensors a layer: numerator, denominator and scale are apart; the seventh version writes values first
        own = torch.stack(parts[1:4])[None] if each == 5 else parts[1].mT if seventh else parts[1]
        found |= {f"{layer}.shift": parts[0].flatten(), f"{layer}.state": own, f"{layer}.channel": parts[-1].flatten()}
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
