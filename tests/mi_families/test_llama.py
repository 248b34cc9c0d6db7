"""LLaMA is the reference implementation's LLaMA, to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TINY, old_spelling, reference, reference_run, save, scramble
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import mi_core as mi
from mi_core.blueprint import only
from mi_core.config import Config
from mi_core.errors import BadConfig, MissingTensors, UnusedConfig, UnusedTensors
from mi_core.tensors import TensorIndex
from mi_families.llama import mi_family, mi_family_examples

LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 2.0, 3.0, 4.5]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "own head width": {"head_dim": 12},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "attention biases": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    "dynamic": {"max_position_embeddings": 8, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "yarn, everything given": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
        | {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}
    },
    "yarn, factor on the angles": {
        "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3}
        | {"original_max_position_embeddings": 32}
    },
    "longrope": {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 10, **LONG}},
    "longrope, factor given": {
        "rope_parameters": {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 40, **LONG}
    },
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
}


def tokens(rows: int = 3, columns: int = 20, seed: int = 1) -> Tensor:
    return torch.randint(0, 61, (rows, columns), generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    difference = (ours.float() - theirs.float()).abs().max().item()
    assert difference <= bound, f"largest difference {difference:.2e}, at most {bound:.0e} wanted"


@pytest.mark.parametrize("old", [False, True], ids=["new spelling", "old spelling"])
@pytest.mark.parametrize("case", CASES)
def test_every_option_gives_the_reference_s_numbers(case: str, old: bool, tmp_path: Path) -> None:
    theirs = reference({**TINY, **CASES[case]})
    model = mi.load(str(save(theirs, tmp_path, old=old)))
    ids = tokens()
    wanted = reference_run(theirs, ids)
    run = model.run(ids, mi.capture(["blocks.*.hook_resid_*", "blocks.*.attn.hook_pattern"]))
    close(run.logits, wanted.logits)
    for layer in range(3):
        close(run[f"blocks.{layer}.attn.hook_pattern"], wanted.attentions[layer])
        close(run[f"blocks.{layer}.hook_resid_pre"], wanted.hidden_states[layer])
    with torch.no_grad():
        close(theirs.model.norm(run["blocks.2.hook_resid_post"]), wanted.hidden_states[3])
    # with nobody looking, the fused kernel; a fresh reference, since dynamic frequencies stick to it
    fused = reference({**TINY, **CASES[case]}, attention="sdpa")
    close(model.run(ids).logits, reference_run(fused, ids).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ["plain", "biases", "llama3", "yarn"])
def test_padding_gives_the_reference_s_numbers(case: str, side: str, tmp_path: Path) -> None:
    theirs = reference({**TINY, **CASES[case]})
    model = mi.load(str(save(theirs, tmp_path)))
    ids, mask = tokens(), torch.ones(3, 20, dtype=torch.long)
    for row, pads in enumerate((0, 7, 18)):
        mask[row, slice(0, pads) if side == "left" else slice(20 - pads, 20)] = 0
    real = mask.bool()
    run = model.run(ids, mi.capture("blocks.*.attn.hook_pattern"), attention_mask=mask)
    wanted = reference_run(theirs, ids, mask)
    close(run.logits[real], wanted.logits[real])
    close(run["blocks.1.attn.hook_pattern"].movedim(1, 2)[real], wanted.attentions[1].movedim(1, 2)[real])


@pytest.mark.parametrize("case", ["dynamic", "longrope"])
def test_frequencies_follow_each_row_s_own_length(case: str, tmp_path: Path) -> None:
    config = {**TINY, **CASES[case]}
    model = mi.load(str(save(reference(config), tmp_path)))
    rows = [tokens(1, length, seed=length)[0].tolist() for length in (20, 5, 12)]
    together = model.run(rows).logits
    for index, row in enumerate(rows):
        alone = reference_run(reference(config), torch.tensor([row])).logits[0]
        close(together[index, : len(row)], alone)


@pytest.mark.parametrize("case", ["plain", "biases", "tied", "llama3"])
def test_bfloat16_is_close(case: str, tmp_path: Path) -> None:
    theirs = reference({**TINY, **CASES[case]}, dtype="bfloat16")
    model = mi.load(str(save(theirs, tmp_path)))
    assert model.dtype == torch.bfloat16
    wanted = reference_run(theirs, tokens())
    run = model.run(tokens(), mi.capture("blocks.*.attn.hook_pattern"))
    close(run.logits, wanted.logits, 2e-2)
    close(run["blocks.2.attn.hook_pattern"], wanted.attentions[2], 2e-2)


@pytest.mark.parametrize("case", ["plain", "biases", "llama3"])
def test_greedy_continuation_is_the_reference_s(case: str, tmp_path: Path) -> None:
    theirs = reference({**TINY, **CASES[case]})
    model = mi.load(str(save(theirs, tmp_path)))
    ids = tokens(2, 6)
    for _ in range(16):
        ids = torch.cat((ids, model.run(ids, logits="last").logits.argmax(-1)), 1)
    wanted = theirs.generate(
        tokens(2, 6),
        attention_mask=torch.ones(2, 6),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert ids.tolist() == wanted.tolist()


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    n_kv_heads, groups = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (3, 2)]))
    n_heads = n_kv_heads * groups
    return {
        **TINY,
        "num_key_value_heads": n_kv_heads,
        "num_attention_heads": n_heads,
        "hidden_size": n_heads * draw(st.sampled_from([4, 6])),
        "head_dim": draw(st.sampled_from([None, 2, 8])),
        "intermediate_size": draw(st.integers(1, 20)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "relu"])),
        "rope_theta": draw(st.sampled_from([100.0, 1e6])),
    }


@settings(max_examples=15, deadline=None)
@given(config=configs(), seed=st.integers(0, 99))
def test_any_shape_gives_the_reference_s_numbers(config: dict[str, Any], seed: int) -> None:
    theirs = reference(config, seed=seed)
    model = mi.build(config)
    names = mi_family(Config(config), None).weights
    tensors = theirs.state_dict()
    with torch.no_grad():
        for parameter, weight in names.items():
            model.backend.get_parameter(parameter).copy_(tensors[weight.names[0]])
    ids = tokens(2, 9, seed)
    close(model.run(ids).logits, reference_run(theirs, ids).logits)


def test_a_file_without_its_unembedding_is_tied_and_without_its_embedding_too(tmp_path: Path) -> None:
    theirs = reference({**TINY, "tie_word_embeddings": True})
    save(theirs, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    wanted = reference_run(theirs, tokens()).logits
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = mi.load(str(tmp_path))
    close(model.run(tokens()).logits, wanted)
    assert model.backend.embed_weight is model.backend.unembed_weight


def test_two_different_matrices_are_not_tied_whatever_the_config_says(tmp_path: Path) -> None:
    theirs = reference(TINY)
    save(theirs, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    close(mi.load(str(tmp_path)).run(tokens()).logits, reference_run(theirs, tokens()).logits)


def test_a_bare_stack_is_read_without_its_prefix(tmp_path: Path) -> None:
    theirs = reference({**TINY, "tie_word_embeddings": True})
    save(theirs, tmp_path)
    tensors = {name.removeprefix("model."): t for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    close(mi.load(str(tmp_path)).run(tokens()).logits, reference_run(theirs, tokens()).logits)


@pytest.mark.parametrize(
    ("written", "said", "error"),
    [({"attention_bias": True}, False, UnusedTensors), ({}, True, MissingTensors)],
    ids=["biases that nobody asked for", "biases that are not there"],
)
def test_biases_follow_the_config_and_contradictions_are_errors(
    written: dict[str, Any], said: bool, error: type[Exception], tmp_path: Path
) -> None:
    save(reference({**TINY, **written}), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": said}))
    with pytest.raises(error, match=r"q_proj\.bias"):
        mi.load(str(tmp_path))


def test_old_files_with_stored_frequencies_load(tmp_path: Path) -> None:
    theirs = reference(TINY)
    save(theirs, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    close(mi.load(str(tmp_path)).run(tokens()).logits, reference_run(theirs, tokens()).logits)


def test_tensor_parallel_pretraining_changes_nothing(tmp_path: Path) -> None:
    plain, split = reference(TINY), reference({**TINY, "pretraining_tp": 2})
    assert torch.equal(reference_run(plain, tokens()).logits, reference_run(split, tokens()).logits)
    close(mi.load(str(save(split, tmp_path))).run(tokens()).logits, reference_run(plain, tokens()).logits)


ROPE = "rope_parameters"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": -32}, "hidden_size"),
        ({"hidden_size": 10**15}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"head_dim": 7}, "head_dim"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"hidden_act": "sine"}, "hidden_act"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({ROPE: {"rope_type": "spiral"}}, "rope_type"),
        ({ROPE: {"rope_type": "linear"}}, "factor"),
        ({ROPE: {"rope_type": "linear", "factor": 0.0}}, "factor"),
        ({ROPE: {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({ROPE: {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 9.0}}, "low_freq_factor"),
        ({ROPE: {"rope_type": "longrope", **LONG, "long_factor": [1.0]}}, "long_factor"),
        ({ROPE: {"rope_type": "longrope", **LONG, "long_factor": [1.0, 2.0, "3", 4.0]}}, "long_factor"),
        ({ROPE: {"rope_theta": 0.0}}, "rope_theta"),
        ({ROPE: {"rope_theta": 5.0}, "rope_scaling": {"rope_theta": 6.0}}, "rope_scaling"),
    ],
)
def test_impossible_numbers_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        mi_family(Config({**TINY, **changes}), None)


def test_a_scaling_s_unknown_key_is_refused() -> None:
    with pytest.raises(UnusedConfig, match="surprise"):
        mi.build({**TINY, ROPE: {"rope_type": "linear", "factor": 2.0, "surprise": 3}})


def test_the_examples_turn_on_every_option() -> None:
    examples = mi_family_examples()
    assert {key for example in examples for key in example} >= {
        *("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias", "hidden_act", "tie_word_embeddings"),
        *("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"),
    }
    for example in examples:
        assert len(mi.build(example).run([1, 2, 3]).logits) == 1


def test_no_weight_is_copied() -> None:
    theirs = reference({**TINY, "tie_word_embeddings": False})
    blueprint = mi_family(Config(TINY), TensorIndex.of(theirs.state_dict()))
    assert all(weight.view is only and len(weight.names) == 1 for weight in blueprint.weights.values())
    assert len(blueprint.weights) == len(theirs.state_dict())


def test_both_spellings_of_a_config_mean_the_same() -> None:
    for case in CASES.values():
        new = reference({**TINY, **case}).config.to_dict()
        new["dtype"] = "float32"
        layers = [mi_family(Config(config), None).backend().spec for config in (new, old_spelling(new))]
        assert layers[0] == layers[1]


def test_scrambled_references_differ_from_their_defaults() -> None:
    model = reference({**TINY, "attention_bias": True})
    scramble(model, 1)
    assert model.model.layers[0].self_attn.q_proj.bias.abs().min() > 0
    assert (model.model.norm.weight - 1).abs().max() > 0.1
