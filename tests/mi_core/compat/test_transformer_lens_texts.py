"""Texts: a BOS in front or none, tokens and their places, and text generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, small, talking

import mi_core as mi
from mi_core.compat.transformer_lens import HookedTransformer
from mi_core.errors import InputError, NoTokenizer, NotSingleToken, UnsupportedAnalysis
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)


def world() -> HookedTransformer:
    return HookedTransformer.from_pretrained("tiny-world", device="cpu")


@given(TEXTS)
def test_there_is_one_bos_or_none(text: str) -> None:
    model = HookedTransformer(talking())
    bos, bare = model.tokenizer.bos, model.tokenizer.encode(text, special=False).ids
    assert model.to_tokens(text).tolist() == [[bos, *bare]]
    assert model.to_tokens(text, prepend_bos=False).tolist() == [list(bare)]
    assert model.to_string(model.to_tokens(text, prepend_bos=False)[0]) == model.tokenizer.decode(bare)
    model.cfg.default_prepend_bos = False
    assert model.to_tokens(text).tolist() == [list(bare)]


def test_a_bos_is_put_in_front_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    tokenizer = JsonTokenizer(Files(tiny_tokenizers.save(tmp_path, tiny_tokenizers.words())))
    bare = list(tokenizer.encode("the cat").ids)
    assert tokenizer.bos is not None
    assert tokenizer.bos not in bare
    model = HookedTransformer(mi.build(small().config, trainable=False, device="cpu", tokenizer=tokenizer))
    assert model.to_tokens("the cat").tolist() == [[tokenizer.bos, *bare]]
    assert model.to_tokens("the cat", prepend_bos=False).tolist() == [bare]
    assert model.to_str_tokens("the cat")[0] == "<s>"


def test_a_text_gives_what_its_ids_give() -> None:
    model = world()
    text = "The capital of France is"
    close(model(text), model(model.to_tokens(text)))
    close(model(text, prepend_bos=False), model(model.to_tokens(text, prepend_bos=False)))
    assert model(text, prepend_bos=False).shape[1] == model(text).shape[1] - 1


def test_shorter_texts_are_masked() -> None:
    model = world()
    texts = ["The capital of France is", "The capital"]
    both, cache = model.run_with_cache(texts)
    alone = model(texts[1])
    close(both[1, : alone.shape[1]], alone[0])
    assert not cache["resid_post", -1][1, alone.shape[1] :].any()
    with pytest.raises(InputError, match="no pad token"):
        model.to_tokens(texts)
    padded = HookedTransformer(talking()).to_tokens(["a", "a longer text"])
    assert padded.ndim == 2


def test_tokens_are_shown_found_and_joined() -> None:
    model = world()
    shown = model.to_str_tokens("The capital of France is")
    assert shown[1:] == ["The", " capital", " of", " France", " is"]
    assert model.to_str_tokens(model.to_tokens("The capital of France is")) == shown
    assert model.to_str_tokens(["The", "The capital"])[1] == shown[:3]
    assert model.to_single_str_token(model.to_single_token(" France")) == " France"
    assert model.get_token_position(" France", "The capital of France is") == 4
    assert model.get_token_position(" of", torch.tensor([7, model.to_single_token(" of")] * 2), "last") == 3
    with pytest.raises(NotSingleToken):
        model.to_single_token(" France is")
    with pytest.raises(InputError, match="does not occur"):
        model.get_token_position(" France", "The capital")
    with pytest.raises(InputError, match="several rows"):
        model.to_str_tokens(torch.ones(2, 2, dtype=torch.long))


def test_losses_are_the_runs() -> None:
    model = world()
    run = model.model.run("The capital of France is")
    logits, loss = model("The capital of France is", return_type="both")
    close(logits, run.logits)
    close(loss, run.loss)
    close(model("The capital of France is", return_type="loss", loss_per_token=True), run.token_losses[:, 1:])
    assert model("The capital of France is", return_type=None) is None


def test_generation_goes_on_in_the_kind_of_its_input() -> None:
    model = world()
    text = "The capital of France is"
    wanted = model.model.generate(text, max_new_tokens=3)
    assert model.generate(text, 3, do_sample=False) == text + wanted.text[0]
    ids = model.generate(model.to_tokens(text), 3, do_sample=False)
    assert ids.tolist() == wanted.tokens.tolist()
    assert model.generate([text], 3, do_sample=False) == [text + wanted.text[0]]
    assert model.generate(text, 3, seed=1) == model.generate(text, 3, seed=1)
    with model.hooks([("blocks.0.hook_resid_post", lambda resid, hook: 0 * resid)]):
        assert model.generate(text, 3, do_sample=False) != text + wanted.text[0]
    with pytest.raises(InputError, match="return_type"):
        model.generate(text, 3, return_type="words")


def test_weights_stay_as_published_unless_folding_is_asked_for() -> None:
    model = HookedTransformer.from_pretrained("tiny-world", device="cpu", fold_ln=False, center_unembed=False)
    assert model.W_E.data_ptr() == model.model.weights["embed.W_E"].data_ptr()
    assert model.blocks[1].attn.W_Q.data_ptr() == model.model.weights["blocks.1.attn.W_Q"].data_ptr()
    assert model.model.provenance.ref == "tiny-world"
    folded = HookedTransformer.from_pretrained("tiny-world", device="cpu", fold_ln=True, center_unembed=True)
    assert folded.model.provenance.ref == "tiny-world (folded: norms, center_unembed)"
    with pytest.raises(UnsupportedAnalysis, match="does not centre"):
        HookedTransformer.from_pretrained("tiny-world", device="cpu", center_writing_weights=True)


def test_the_config_tells_sizes_and_what_is_absent() -> None:
    cfg = world().cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.n_key_value_heads, cfg.d_head) == (4, 128, 4, 2, 32)
    assert (cfg.d_mlp, cfg.d_vocab, cfg.n_ctx, cfg.normalization_type) == (256, 1024, 128, "RMS")
    assert (cfg.gated_mlp, cfg.parallel_attn_mlp, cfg.attn_only) == (True, False, False)
    model = world()
    assert not hasattr(model, "W_pos")
    assert not hasattr(model, "anything")
    assert not hasattr(model.blocks[0], "attention")
    assert not model.b_Q.any()
    assert model.b_Q.shape == (4, 4, 32)
    assert model.all_head_labels()[:5] == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(NoTokenizer):
        HookedTransformer(small()).to_tokens("text")


def test_parameters_can_be_trained_and_moved() -> None:
    model = HookedTransformer(small()).to("cpu").eval()
    assert len(list(model.parameters())) == len(list(small().module.parameters()))
    assert isinstance(model.model, mi.Model)
