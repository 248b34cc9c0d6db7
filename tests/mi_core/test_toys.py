import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_core as mi
from mi_core.errors import BadConfig, UnknownFamily

FAMILIES = ("gpt2", "llama", "qwen3", "gpt_neox", "gemma2", "opt", "bloom", "mixtral", "phi3")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(n_layers=st.integers(1, 3), heads=st.integers(1, 4), d_vocab=st.integers(9, 40))
def test_sizes_are_those_that_were_asked_for(family, n_layers, heads, d_vocab):
    sizes = {"n_layers": n_layers, "n_heads": heads, "d_model": 8 * heads, "d_vocab": d_vocab}
    model = mi.build(family, **sizes, seed=3)
    assert (model.shape.n_layers, model.shape.d_model, model.shape.d_vocab) == (n_layers, 8 * heads, d_vocab)
    assert model.hook_points("blocks.0.attn.hook_z")[0].site.sizes["head"] == heads
    assert model.run([1, 2, 3]).logits.shape == (1, 3, d_vocab)


def test_the_rest_is_the_familys_default_or_a_key_of_the_config():
    model = mi.build("gpt2", n_layers=1, tie_word_embeddings=False)
    assert model.config["tie_word_embeddings"] is False
    assert model.config["n_embd"] == 64
    assert model.backend.embed_weight is not model.backend.unembed_weight


REFUSED = [
    ("gpt2", {"n_kv_heads": 2}, BadConfig, "no such size; they have n_layers"),
    ("nobody", {}, UnknownFamily, "nobody"),
    ({"model_type": "gpt2"}, {"n_layers": 2}, BadConfig, "give them there"),
]


@pytest.mark.parametrize(("config", "sizes", "error", "message"), REFUSED)
def test_what_is_no_size_of_the_family_is_refused(config, sizes, error, message):
    with pytest.raises(error, match=message):
        mi.build(config, **sizes)
