"""The residual patching grid in another library; `sweeps.py --beside PYTHON` runs this with an interpreter that has it.

Reads the shape as JSON from the first line of its input, says which library it found, and then, for each further line,
runs the grid once and says how many seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

Grid = Callable[[], Any]


def llama(config: dict[str, Any]) -> Any:
    """The random model, as transformers has it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(LlamaConfig(**config), attn_implementation="sdpa").eval()


def difference(logits: torch.Tensor) -> torch.Tensor:
    """The metric."""
    return logits[0, -1, 3] - logits[0, -1, 4]


def of_bridge(config: dict[str, Any], tokens: torch.Tensor, source: torch.Tensor) -> Grid:
    """TransformerLens from 4 on: a bridge around the model of transformers."""
    import tempfile

    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    there = llama(config)
    with tempfile.TemporaryDirectory() as folder:
        there.config.save_pretrained(folder)
        save_words(folder)  # it insists on a tokenizer, and on reading it anew
        own = PreTrainedTokenizerFast.from_pretrained(folder)
        model = TransformerBridge.boot_transformers(folder, hf_model=there, tokenizer=own, device="cpu")
    return of_lens(model, tokens, source)


def of_hooked_transformer(config: dict[str, Any], tokens: torch.Tensor, source: torch.Tensor) -> Grid:
    """TransformerLens up to 3: its own model, of the same shape."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    heads = config["num_attention_heads"]
    own = HookedTransformerConfig(
        n_layers=config["num_hidden_layers"],
        d_model=config["hidden_size"],
        n_ctx=config["max_position_embeddings"],
        d_head=config["hidden_size"] // heads,
        n_heads=heads,
        n_key_value_heads=config["num_key_value_heads"],
        d_mlp=config["intermediate_size"],
        d_vocab=config["vocab_size"],
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=config["hidden_size"] // heads,
        final_rms=True,
        seed=0,
        device="cpu",
    )
    return of_lens(HookedTransformer(own), tokens, source)


def of_lens(model: Any, tokens: torch.Tensor, source: torch.Tensor) -> Grid:
    """The grid of TransformerLens."""
    from transformer_lens import patching

    model.eval()
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    return lambda: patching.get_act_patch_resid_pre(model, tokens, cache, difference)


def of_nnsight(config: dict[str, Any], tokens: torch.Tensor, source: torch.Tensor) -> Grid:
    """A loop of traces, one for each cell."""
    from nnsight import NNsight

    model = NNsight(llama(config))
    layers = config["num_hidden_layers"]
    with torch.no_grad(), model.trace(source):
        values = [model.model.layers[layer].input.save() for layer in range(layers)].save()

    def grid() -> torch.Tensor:
        result = torch.zeros(layers, tokens.shape[1])
        with torch.no_grad():
            for layer in range(layers):
                for pos in range(tokens.shape[1]):
                    with model.trace(tokens, use_cache=False, logits_to_keep=1):
                        model.model.layers[layer].input[:, pos] = values[layer][:, pos]
                        found = model.output.logits.save()
                    result[layer, pos] = difference(found)
        return result

    return grid


def save_words(folder: str) -> None:
    """Write a tokenizer that the grid never uses."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>")
    alone = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>"))
    PreTrainedTokenizerFast(tokenizer_object=alone, **marks).save_pretrained(folder)


def installed() -> tuple[str, Callable[[dict[str, Any], torch.Tensor, torch.Tensor], Grid]]:
    """The library of this environment, and how its grid is made."""
    for name in ("transformer-lens", "nnsight"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if name == "nnsight":
            return f"nnsight {found}", of_nnsight
        return f"TransformerLens {found}", of_bridge if int(found.split(".")[0]) >= 4 else of_hooked_transformer
    raise SystemExit("neither transformer-lens nor nnsight is installed here")


def main() -> None:
    """Answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(asked["threads"])
    name, make = installed()
    source, tokens = (torch.tensor(asked[key]) for key in ("source", "tokens"))
    grid = make(asked["config"], tokens, source)
    print(json.dumps(name), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        grid()
        print(json.dumps(time.perf_counter() - began), file=answers, flush=True)


if __name__ == "__main__":
    main()
