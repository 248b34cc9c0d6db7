"""Loading and saving with a real family, against checkpoints that transformers writes and reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_core as mi
from mi_core.building import initialise_randomly, save_model

transformers = pytest.importorskip("transformers", reason="the reference writes and reads the checkpoints")

configs = st.fixed_dictionaries(
    {
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "attention_bias": st.booleans(),
        "mlp_bias": st.booleans(),
        "tie_word_embeddings": st.booleans(),
        "num_hidden_layers": st.integers(1, 3),
    }
)
TINY = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def reference(options: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


@settings(max_examples=10)
@given(configs, st.sampled_from(["1GB", "10KB"]))
def test_what_the_reference_saved_is_loaded_whole(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], shard: str
) -> None:
    folder = tmp_path_factory.mktemp("reference")
    theirs = reference(options)
    theirs.save_pretrained(folder, max_shard_size=shard)
    assert (folder / "model.safetensors").exists() == (shard == "1GB")
    ours = mi.load(folder)
    ids = torch.arange(12)[None]
    assert torch.allclose(ours.run(ids).logits, logits(theirs, ids), atol=1e-5)


@settings(max_examples=10)
@given(configs, st.integers(0, 100))
def test_what_we_saved_is_what_the_reference_loads(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("ours")
    ours = mi.build(
        {"model_type": "llama", "max_position_embeddings": 64, **TINY, **options}, seed=seed, trainable=False
    )
    initialise_randomly(ours, seed)
    save_model(ours, folder)
    theirs, said = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.arange(12)[None]
    assert torch.allclose(ours.run(ids).logits, logits(theirs.eval(), ids), atol=1e-5)
    assert torch.equal(mi.load(folder).run(ids).logits, ours.run(ids).logits)
