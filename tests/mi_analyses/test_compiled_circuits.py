import pytest
import torch
from compiled_circuits import CASES, INDUCTION, PREVIOUS, compiled

import mi_core as mi
from mi_analyses import (
    activation_patching,
    attention_knockout,
    attribution_patching,
    direct_logit_attribution,
    edge_attribution,
    head_scores,
    path_patching,
)

HEADS = [(layer, head) for layer in range(2) for head in range(3)]


def test_the_model_says_what_followed_the_token_before():
    for case in CASES.values():
        for row, answer in ((case.clean, case.answer), (case.corrupt, case.wrong)):
            probability = compiled().run(row).last_logits[0].softmax(-1)
            assert (int(probability.argmax()) == answer) == (row is case.clean or case is not CASES["key"])


def test_norms_are_the_identity():
    model = compiled(sharpness=40)
    norms = ["blocks.*.attn.hook_in", "blocks.*.mlp.hook_in", "unembed.hook_in"]
    streams = ["blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.1.hook_resid_post"]
    run = model.run(CASES["query"].clean, mi.capture([*norms, *streams]))
    for layer in range(2):
        for own, stream in (("attn.hook_in", "hook_resid_pre"), ("mlp.hook_in", "hook_resid_mid")):
            seen, wanted = run[f"blocks.{layer}.{own}"], run[f"blocks.{layer}.{stream}"]
            torch.testing.assert_close(seen, wanted, atol=3e-3, rtol=1e-3)
    # where something is found, and all of it
    torch.testing.assert_close(run["unembed.hook_in"][:, -1], run["blocks.1.hook_resid_post"][:, -1], atol=1e-2, rtol=0)


def test_the_detectors_find_the_two_heads_and_no_other():
    scores = head_scores(compiled(sharpness=40), length=8).scores
    for kind, found in (("previous token", PREVIOUS), ("induction", INDUCTION)):
        for layer, head in HEADS:
            score = scores.sel(kind=kind, layer=layer, head=head).item()
            assert score > 0.99 if (layer, head) == found else score < 0.3


@pytest.mark.parametrize("noising", [False, True])
@pytest.mark.parametrize("name", sorted(CASES))
def test_patching_finds_the_heads_that_carry_the_difference_where_they_do(name, noising):
    case, each = CASES[name], ("layer", "head", "pos")
    metric = mi.logit_diff(case.answer, case.wrong)
    arguments = (compiled(), case.clean, case.corrupt, metric)
    patched = activation_patching(*arguments, site="attn.hook_z", each=each, noising=noising).effect
    estimated = attribution_patching(*arguments, site="attn.hook_z", each=each, noising=noising).effect
    expected = torch.zeros(2, 3, 6)
    for (layer, head), pos in case.heads.items():
        expected[layer, head, pos] = 1
    torch.testing.assert_close(patched.values, expected, atol=5e-3, rtol=0)
    # the last head writes straight to the logits: to first order is to the end; before it there is a softmax
    torch.testing.assert_close(estimated.values[1], expected[1], atol=5e-3, rtol=0)
    assert torch.equal(estimated.values.abs() > 0.1, expected > 0)
    assert float(estimated.values[expected == 0].abs().max()) < 5e-3


def test_saturated_attention_hides_the_key_from_gradients_and_not_from_the_fix():
    case, layer, head = CASES["key"], *INDUCTION
    arguments = (compiled(sharpness=40), case.clean, case.corrupt, mi.logit_diff(case.answer, case.wrong))
    options = {"site": "attn.hook_k", "each": ("layer", "kv_head", "pos"), "noising": True}
    truth = activation_patching(*arguments, **options).effect
    assert truth.sel(layer=layer, kv_head=head, pos=3).item() == pytest.approx(1, abs=5e-3)
    plain = attribution_patching(*arguments, **options).effect
    assert float(plain.values.abs().max()) < 1e-3
    fixed = attribution_patching(*arguments, **options, qk_fix=True).effect
    torch.testing.assert_close(fixed.values, truth.values, atol=5e-3, rtol=0)


def test_knockout_finds_the_edges_of_attention_that_matter():
    case = CASES["key"]
    each = ("layer", "query_pos", "key_pos")
    result = attention_knockout(compiled(sharpness=40), case.clean, case.answer, query=None, each=each)
    lost = result.probability.values[..., 0] < -0.1
    assert {tuple(map(int, place)) for place in lost.nonzero()} == {(0, 3, 2), (1, 5, 3)}
    assert float(result.probability.values[..., 0][~lost].abs().max()) < 5e-3


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 2, "along": "activations"}])
@pytest.mark.parametrize("noising", [False, True])
@pytest.mark.parametrize("name", sorted(CASES))
def test_edge_attribution_finds_exactly_the_edges_of_the_circuit(name, noising, options):
    case = CASES[name]
    metric = mi.logit_diff(case.answer, case.wrong)
    result = edge_attribution(compiled(), case.clean, case.corrupt, metric, noising=noising, **options)
    found = result.largest(len(case.edges))
    assert set(found.coords["edge"]) == case.edges
    sizes = result.largest(len(case.edges) + 1).values.abs()
    assert float(sizes[-1]) < 0.02 * float(sizes[0])
    assert float(sizes[-2]) > 0.1 * float(sizes[0])
    assert set(result.circuit(len(case.edges), select="greedy")) == case.edges
    # straight to the logits: nothing is curved on the way
    low, high = (result.clean, result.corrupt) if noising else (result.corrupt, result.clean)
    last = result.score.sel(sender="L1H2", receiver="logits").item()
    assert last == pytest.approx((high - low).item(), rel=1e-2)


@pytest.mark.parametrize("name", sorted(CASES))
def test_path_patching_finds_exactly_the_edges_of_the_circuit(name):
    case = CASES[name]
    metric = mi.logit_diff(case.answer, case.wrong)
    receivers = ["L0H1.v", "L1H2.q", "L1H2.k", "L1H2.v", "mlp 0", "mlp 1", "logits"]
    prompts = (compiled(), case.clean, case.corrupt, metric, receivers)
    effect = path_patching(*prompts, each_receiver=True).effect
    values = effect.values.nan_to_num(nan=0.0)
    found = {
        f"{effect.coords['sender'][row]} -> {effect.coords['receiver'][column]}"
        for row, column in (values.abs() > 0.02).nonzero().tolist()
    }
    assert effect.dims == ("sender", "receiver")
    assert found == case.edges
    assert float(values[values.abs() > 0.02].min()) > 0.98


def test_only_the_induction_head_writes_to_the_logits():
    for case in CASES.values():
        result = direct_logit_attribution(compiled(), case.clean, case.answer, case.wrong)
        for layer, head in HEADS:
            share = result.head.sel(layer=layer, head=head).item() / result.logit.item()
            assert share == pytest.approx(float((layer, head) == INDUCTION), abs=5e-3)
        for name in ("embed", "pos_embed", "0.attn", "0.mlp", "1.mlp", "remainder"):
            assert abs(result.component.sel(component=name).item()) < 5e-3 * result.logit.item()
