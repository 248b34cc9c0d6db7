"""What one head or the channel part reads can be written apart, in every kind of layer and beside every other write."""

from __future__ import annotations

import pytest
import torch
from checkpoints import scramble
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mi_core as mi
from mi_core.errors import SelectorError, UnknownPoint
from mi_decoder import Attention, Decoder, GatedMLP, HeadNorm, Layer, LayerNorm, ParallelLayer, RMSNorm, Rotary
from mi_decoder.parts import SplitMixerModule

IDS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
EACH, GROUPED = Attention(4, 4, 8, Rotary(8), bias=True), Attention(4, 2, 8, Rotary(8))
JOINT = Attention(4, 4, 8, Rotary(8), qk_norm=HeadNorm(RMSNorm(1e-5), over="together"))
MLP, NORM = GatedMLP(20), RMSNorm(1e-5)
LAYERS = {
    "pre": Layer(EACH, MLP, ln1=NORM, ln2=NORM),
    "grouped": Layer(GROUPED, MLP, ln1=NORM, ln2=NORM),
    "post-branch, heads normed together": Layer(JOINT, MLP, ln1_post=NORM, ln2_post=NORM),
    "sandwich": Layer(GROUPED, MLP, NORM, NORM, NORM, NORM),
    "parallel, one norm": ParallelLayer(EACH, MLP, ln1=LayerNorm(1e-5)),
    "parallel, two norms": ParallelLayer(GROUPED, MLP, ln1=NORM, ln2=NORM),
}
KINDS = st.sampled_from(sorted(LAYERS))
PARTS = st.sampled_from("qkv")
MODELS: dict[str, mi.Model] = {}
FIRST = "blocks.0."


def model(kind: str) -> mi.Model:
    if kind not in MODELS:
        backend = Decoder(61, 32, (LAYERS[kind],) * 2, ln_final=NORM).build()
        for module in backend.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
        scramble(backend, 0)
        MODELS[kind] = mi.Model(backend, name=kind, config={})
    return MODELS[kind]


def own_dim(kind: str, part: str) -> str:
    return model(kind).points.find(f"{FIRST}hook_{part}_input").site.dims[2]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=12)
@given(KINDS, PARTS, st.integers(0, 1), st.integers(0, 4), st.integers(0, 99))
def test_a_write_changes_one_head_at_one_position_and_nothing_else_bit_for_bit(kind, part, head, pos, seed):
    made = [f"{FIRST}attn.hook_{name}" for name in "qkv"]
    where = {own_dim(kind, part): head, "pos": pos}
    write = mi.intervene(f"{FIRST}hook_{part}_input", mi.Add(noise(seed, 32)).at(**where))
    base, run = (model(kind).run(IDS, spec + mi.capture(made)) for spec in (mi.HookSpec(), write))
    for name in made:
        same = base[name] == run[name]
        touched = torch.zeros_like(same)
        touched[:, pos, head] = name.endswith(part)
        assert same[~touched].all()
        assert not same[touched].any()


@settings(max_examples=12)
@given(KINDS, st.integers(0, 99), st.booleans())
def test_writing_what_is_there_changes_no_bit(kind, seed, looking):
    own = [f"{FIRST}hook_{name}" for name in ("q_input", "k_input", "v_input", "mlp_in")]
    beside = mi.capture(
        [f"{FIRST}attn.hook_in", *(["blocks.*.ln1.hook_normalized"] if looking and "post" not in kind else [])]
    )
    base = model(kind).run(IDS, beside + mi.capture(own))
    run = model(kind).run(IDS, beside + mi.intervene(own, mi.Replace(base)))
    assert torch.equal(run.logits, base.logits)


@settings(max_examples=12)
@given(
    KINDS,
    st.sampled_from(["hook_resid_pre", "attn.hook_in", "ln1.hook_scale", "ln1.hook_normalized"]),
    st.integers(0, 99),
)
def test_inputs_of_all_readers_together_are_the_input_that_they_share(kind, beside, seed):
    """Beside a write to what all share, wherever it is: before the copies, or behind them at the norm."""
    if beside.startswith("ln1") and kind.startswith("post"):
        beside = "attn.hook_in"
    size = 1 if beside.endswith("scale") else 32
    write = mi.intervene(FIRST + beside, mi.Replace(noise(seed, 2, 5, size).exp() + 0.5))
    other = noise(seed + 1, 2, 5, 32)
    if beside == "hook_resid_pre":
        whole, apart = mi.HookSpec(), mi.HookSpec()
    else:
        whole = apart = write
    made = mi.capture([f"{FIRST}attn.hook_{name}" for name in "qkv"])
    stream = mi.intervene(f"{FIRST}hook_resid_pre", mi.Replace(other))
    wanted = model(kind).run(IDS, stream + whole + made)
    if beside in ("attn.hook_in", "ln1.hook_normalized"):
        # a change there is added to what each reads: so write the change
        plain = model(kind).run(IDS, mi.capture(FIRST + beside))
        shift = noise(seed, 2, 5, 32)
        wanted = model(kind).run(IDS, stream + mi.intervene(FIRST + beside, mi.Add(shift)) + made)
        apart = mi.intervene(FIRST + beside, mi.Replace(plain[FIRST + beside] + shift))
    copies = sum(
        (mi.intervene(f"{FIRST}hook_{name}_input", mi.Replace(other[:, :, None])) for name in "qkv"), mi.HookSpec()
    )
    run = model(kind).run(IDS, copies + apart + made)
    for name in (f"{FIRST}attn.hook_{part}" for part in "qkv"):
        torch.testing.assert_close(run[name], wanted[name], atol=2e-4, rtol=1e-4)


@settings(max_examples=12)
@given(KINDS, st.integers(0, 99))
def test_the_channel_parts_input_is_its_own(kind, seed):
    stream = "hook_resid_pre" if kind.startswith("parallel") else "hook_resid_mid"
    other = mi.Replace(noise(seed, 2, 5, 32))
    reads = mi.capture([f"{FIRST}mlp.hook_in", f"{FIRST}{stream}", f"{FIRST}hook_attn_out", f"{FIRST}hook_mlp_out"])
    base, wanted, run = (
        model(kind).run(IDS, spec + reads)
        for spec in (
            mi.HookSpec(),
            mi.intervene(FIRST + stream, other),
            mi.intervene(f"{FIRST}hook_mlp_in", other),
        )
    )
    torch.testing.assert_close(run[f"{FIRST}hook_mlp_out"], wanted[f"{FIRST}hook_mlp_out"], atol=1e-5, rtol=1e-4)
    for name in (stream, "hook_attn_out"):
        assert torch.equal(run[FIRST + name], base[FIRST + name])


@settings(max_examples=12)
@given(KINDS)
def test_the_gradient_at_the_stream_is_that_past_the_layer_and_its_readers(kind):
    sources = [f"{FIRST}hook_{name}" for name in ("q_input", "k_input", "v_input", "mlp_in")]
    pre, mid, post = (f"{FIRST}hook_resid_{name}" for name in ("pre", "mid", "post"))
    captured = [pre, *([] if kind.startswith("parallel") else [mid]), *sources, post]
    run = model(kind).run(IDS, mi.capture(captured), grad=True)
    slopes = run.grad(lambda logits: logits @ noise(1, 61), captured)
    heads = sum(slopes[name].sum(2) for name in sources[:3])
    behind = slopes[post] + slopes[sources[3]]
    for name, wanted in ((mid, behind), (pre, behind + heads)):
        if name in captured:
            torch.testing.assert_close(slopes[name], wanted, atol=1e-3, rtol=1e-3)


def test_the_gradient_at_a_heads_input_is_that_of_its_three_readings():
    names = [f"{FIRST}hook_{name}" for name in ("attn_in", "q_input", "k_input", "v_input")]
    run = model("pre").run(IDS, mi.capture(names), grad=True)
    whole, *parts = run.grad(lambda logits: logits @ noise(1, 61), names).values()
    torch.testing.assert_close(whole, sum(parts), atol=1e-3, rtol=1e-3)


def test_a_written_head_input_reaches_query_key_and_value_of_that_head():
    made = [f"{FIRST}attn.hook_{name}" for name in "qkv"]
    other = noise(0, 2, 5, 32)
    write = mi.intervene(f"{FIRST}hook_attn_in", mi.Replace(other[:, :, None]).at(head=2))
    stream = mi.intervene(f"{FIRST}hook_resid_pre", mi.Replace(other))
    base, wanted, run = (model("pre").run(IDS, spec + mi.capture(made)) for spec in (mi.HookSpec(), stream, write))
    for name in made:
        torch.testing.assert_close(run[name][:, :, 2], wanted[name][:, :, 2])
        assert torch.equal(run[name][:, :, [0, 1, 3]], base[name][:, :, [0, 1, 3]])


@pytest.mark.parametrize("part", ["k", "v"])
def test_a_query_head_of_grouped_keys_is_refused_with_the_head_that_it_reads(part):
    write = mi.intervene(f"{FIRST}hook_{part}_input", mi.Zero().at(head=3))
    with pytest.raises(SelectorError, match=rf"query head 3 reads kv_head 1.*'blocks.0.attn.hook_{part}_per_head'"):
        model("grouped").run(IDS, write)


def test_a_head_has_no_one_input_where_keys_are_shared():
    with pytest.raises(UnknownPoint, match="each head's own copy of the stream"):
        model("grouped").run(IDS, mi.capture(f"{FIRST}hook_attn_in"))


def test_wildcards_leave_the_copies_out():
    names = {point.site.name for point in model("pre").hook_points(["*", "blocks.*.hook_*"])}
    assert not {name for name in names if name.endswith(("_input", "_in")) and name.startswith("hook_")}


def test_attention_says_that_its_heads_read_apart():
    mixer = LAYERS["grouped"].build(32).mixer
    assert isinstance(mixer, SplitMixerModule)
    assert mixer.heads_that_read == {"q": 4, "k": 2, "v": 2}
