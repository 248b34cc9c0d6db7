from __future__ import annotations

from small_models import small, talking

import mi_core as mi

RESID, PATTERN = "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"


def test_a_receipt_says_what_was_asked_and_what_fired() -> None:
    spec = mi.capture("blocks.*.resid_post").at(layer=[0, 2]) + mi.intervene("blocks.1.mixer.z", mi.Zero().at(pos=-1))
    receipt = small().run([[1, 2, 3], [4]], spec).receipt
    assert receipt.asked == {
        "blocks.*.resid_post": ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post"),
        "blocks.1.mixer.z": ("blocks.1.attn.hook_z",),
    }
    assert receipt.fired == ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.2.hook_resid_post")
    assert receipt.spec == repr(spec)
    assert receipt.tokens == (3, 1)
    assert (receipt.dtype, receipt.device, receipt.chunks) == ("float32", "cpu", 1)
    assert receipt.layers == (0, 1, 2)
    assert receipt.stopped_after is None
    assert 0 < receipt.seconds < 60
    assert receipt.bos == (None, None)


def test_one_pattern_asked_twice_lists_all_its_points() -> None:
    spec = mi.capture("blocks.*.resid_post").at(layer=0) + mi.capture("blocks.*.resid_post").at(layer=2)
    assert len(small().run([[1]], spec).receipt.asked["blocks.*.resid_post"]) == 2


def test_only_layers_at_which_somebody_looks_inside_attention_are_explicit() -> None:
    receipt = small().run([[1, 2]], mi.capture(PATTERN) + mi.capture("blocks.*.attn.hook_z")).receipt
    assert receipt.kernels == {0: "fused", 1: "explicit (attn.hook_pattern)", 2: "fused"}
    assert "layer" in str(receipt)
    assert "explicit" in str(receipt)
    cut = small().run([[1, 2]], mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(-1, 0)).at(layer=2)).receipt
    assert cut.kernels == {0: "fused", 1: "fused", 2: "fused, with cut edges"}
    assert "fused everywhere" in str(small().run([[1]]).receipt)


def test_an_early_stop_is_told() -> None:
    receipt = small().run([[1, 2]], mi.capture(RESID), logits=None).receipt
    assert receipt.layers == (0, 1)
    assert receipt.stopped_after == 1
    assert "stopped after layer 1" in str(receipt)
    assert small().run([[1]], mi.capture("hook_embed"), logits=None).receipt.layers == ()


def test_a_bos_is_shown_in_the_layout_of_any_input() -> None:
    receipt = talking().run("France").receipt
    assert receipt.bos == ("<s>",)
    assert "BOS '<s>'" in str(receipt)
    ids = talking().run("France").tokens[0, 1:].tolist()
    assert talking().run(ids).receipt.bos == (None,)
