"""Folded weights: other matrices, the same probabilities, and refusals where that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import close, family_example, small
from torch import Tensor

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.errors import NotSerialisable, UnsupportedAnalysis

IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]])
TRANSFORMATIONS = ("norms", "value_biases", "center_writing", "center_unembed")
FAMILIES = ("gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "gpt_oss", "olmo2", "phi", "deepseek_v3", "xglm")
FAMILIES += ("mixtral", "phimoe", "qwen2_moe", "llama4_text", "hooked_transformer")
"""Of each structure one: fused or shared norms, offsets of gains, soft-caps, sinks, late norms, latents; experts beside
shared ones, behind norms with biases, with a gate, with weighed inputs; attention alone."""


def log_probs(model: mi.Model) -> Tensor:
    return model.run(IDS).logits.log_softmax(-1)


@settings(max_examples=2)
@given(st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_is_not_refused_keeps_the_probabilities(family: str, data: st.DataObject) -> None:
    examples = plugins.plugin("mi_core.families", family).call("mi_family_examples")
    model = mi.build(data.draw(st.sampled_from(list(examples))), trainable=False, dtype="float64", device="cpu")
    initialise_randomly(model, data.draw(st.integers(0, 99)))
    before = log_probs(model)
    obstacles = model.backend.fold_obstacles()  # type: ignore[attr-defined]
    for name in TRANSFORMATIONS:
        if name in obstacles:
            with pytest.raises(UnsupportedAnalysis, match="would change what"):
                mi.folded(model, **{name: True})
        else:
            alone = mi.folded(model, **{other: other == name for other in TRANSFORMATIONS})
            close(log_probs(alone), before, atol=1e-10)
    close(log_probs(mi.folded(model)), before, atol=1e-10)
    assert torch.equal(log_probs(model), before)


def test_folded_norms_divide_and_nothing_else() -> None:
    model = mi.folded(family_example("gpt2"), norms=True)
    for name in ("blocks.1.ln1", "blocks.2.ln2", "ln_final"):
        assert bool((model.weights[f"{name}.w"] == 1).all())
        assert not model.weights[f"{name}.b"].any()
    assert model.weights["blocks.1.attn.W_Q"].mean(1).abs().max() < 1e-6  # norms that centre hide the mean
    offsets = mi.folded(family_example("gemma"), norms=True)
    assert bool((offsets.weights["blocks.1.ln1.w"] == 1).all())


def test_a_centred_stream_has_no_mean_and_centred_logits_neither() -> None:
    run = mi.folded(family_example("gpt2")).run(IDS, mi.capture("*"))
    for name in ("blocks.1.hook_mlp_out", "blocks.2.hook_attn_out", "blocks.2.hook_resid_post"):
        close(run[name].mean(-1), torch.zeros(IDS.shape), atol=1e-6)
    close(run.logits.mean(-1), torch.zeros(IDS.shape), atol=1e-5)


def test_folded_values_have_no_bias_and_heads_of_a_group_share_one() -> None:
    model = small()  # two keys and values for four heads, with biases
    folded = mi.folded(model, value_biases=True, norms=False, center_unembed=False)
    assert not folded.weights["blocks.1.attn.b_V"].any()
    close(folded.run(IDS).logits, model.run(IDS).logits)


def test_the_model_that_was_folded_stays_and_the_new_one_says_what_it_is() -> None:
    model = family_example("gpt2")
    before = {name: tensor.clone() for name, tensor in model.module.named_parameters()}
    folded = mi.folded(model)
    assert folded.provenance.ref == "build (folded: norms, value_biases, center_writing, center_unembed)"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.named_parameters())
    assert folded.tokenizer is None
    assert mi.folded(model, **dict.fromkeys(TRANSFORMATIONS, False)).provenance.ref == "build (folded: nothing)"


@pytest.mark.parametrize(
    ("family", "transformation", "why"),
    [
        ("llama", "center_writing", "does not centre"),
        ("gemma2", "center_unembed", "soft-capped"),
        ("gpt_oss", "value_biases", "sinks"),
        ("rwkv7", "norms", "TimeMixModule mixes each token with the one before, and the first with zeros"),
    ],
)
def test_what_would_change_probabilities_is_refused_with_the_reason(family: str, transformation: str, why: str) -> None:
    with pytest.raises(UnsupportedAnalysis, match=why):
        mi.folded(family_example(family), **{transformation: True})


def test_rewritten_weights_are_not_saved_as_a_checkpoint_that_lacks_them(tmp_path: Path) -> None:
    tied = mi.build({**family_example("gpt2").config, "tie_word_embeddings": True}, trainable=False, device="cpu")
    for model in (family_example("gpt2"), tied):
        with pytest.raises(NotSerialisable, match="were rewritten"):
            mi.save_model(mi.folded(model), tmp_path / "model")
    mi.save_model(tied, tmp_path / "model")
    close(mi.load(tmp_path / "model", device="cpu").run(IDS).logits, tied.run(IDS).logits)
