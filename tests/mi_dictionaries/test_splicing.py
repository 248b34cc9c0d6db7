"""Splices against what they should do, computed by hand from captures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
import mi_dictionaries as md
from mi_core.dictionaries import Dictionary
from mi_core.errors import NotSerialisable, ReadOnlyPoint, SelectorError, SpecError, UnknownPoint, ValueMismatch

D, F = 16, 40
STREAM, IN, OUT, Z = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"
PROMPTS = [[5, 17, 30, 2], [7, 8]]


def sae(point: str = STREAM, seed: int = 0, **more: Any) -> md.SparseDictionary:
    weights = {"W_enc": random(D, F, seed=seed), "b_enc": random(F, seed=seed + 1), "b_dec": random(D, seed=seed + 3)}
    return md.SparseDictionary(reads=(point,), W_dec=random(F, D, seed=seed + 2), **(weights | more))


def clt(layers: int = 3) -> md.DictionarySet:
    made = []
    for i in range(layers):
        names = [f"blocks.{layer}.hook_mlp_out" for layer in range(i, layers)]
        decoder = 0.1 * random(F, layers - i, D, seed=20 + i)
        weights = {"W_enc": random(D, F, seed=30 + i), "b_dec": random(D, seed=40 + i), "W_dec": decoder}
        reads = f"blocks.{i}.hook_resid_mid"
        made.append(md.cross_layer_transcoder_layer(reads=reads, writes=names, b_enc=random(F, seed=50 + i), **weights))
    return md.DictionarySet(tuple(made))


LINEAR = {"k_ctx": 4, "q_target": 4, "v_ctx": F, "c_proj": F}
ATTENTION = md.TemporalAttention(
    n_heads=2, **{name: (0.1 * random(n, F, seed=n), random(n, seed=n)) for name, n in LINEAR.items()}
)
KINDS: Mapping[str, Dictionary | md.DictionarySet] = {
    "autoencoder": sae(),
    "top-k, normed": sae(activation=md.TopK(4), transforms=(md.LayerNorm(),)),
    "gated, for a processed model": sae(
        b_enc=None,
        activation=md.Gated(*(random(F, seed=60 + i) for i in range(3))),
        transforms=(md.Centred(), md.ConstantNorm()),
    ),
    "heads": sae(Z, heads=True, transforms=(md.Shifted(random(D, seed=9)),)),
    "transcoder": sae(IN, writes=(OUT,), W_skip=random(D, D, seed=7)),
    "matching pursuit": md.MatchingPursuit(
        reads=(STREAM,), W_dec=torch.nn.functional.normalize(random(F, D, seed=1), dim=-1)
    ),
    "temporal": md.Temporal(reads=(STREAM,), W_dec=random(F, D, seed=1), attention=(ATTENTION,)),
    "cross-layer transcoder": clt(),
}
SINGLE = [name for name in KINDS if name != "cross-layer transcoder"]


def first(kind: str) -> Any:
    held = KINDS[kind]
    return held[0] if isinstance(held, md.DictionarySet) else held


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grad", [False, True])
def test_with_the_error_term_and_no_write_nothing_changes(kind: str, grad: bool) -> None:
    plain = small().run(PROMPTS, grad=grad)
    seen = mi.capture([f"{first(kind).site_in}.hook_sae_acts_post", f"{first(kind).site_in}.hook_sae_recons"])
    for spec in (md.splice(KINDS[kind]), md.splice(KINDS[kind]) + seen):
        assert torch.equal(small().run(PROMPTS, spec, grad=grad).logits, plain.logits)


@pytest.mark.parametrize("kind", SINGLE)
@given(ROWS, LAYOUTS, SEEDS)
def test_features_reconstruction_and_error_are_points(kind: str, rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    held = first(kind)
    at = held.site_in
    points = [f"{at}.hook_sae_{what}" for what in ("acts_post", "recons", "error")]
    run = small().run(ids, md.splice(held) + mi.capture([*points, at, held.site_out]), attention_mask=mask)
    real = run.mask
    alone = [held.encode(run[at][row][real[row]][None]).dense()[0] for row in range(len(real))]
    close(run[points[0]][real], torch.cat(alone), 1e-4)
    recons = [held.forward(run[at][row][real[row]][None])[0] for row in range(len(real))]
    close(run[points[1]][real], torch.cat(recons), 1e-4)
    close((run[points[1]] + run[points[2]])[real], run[held.site_out][real], 1e-4)


@pytest.mark.parametrize("kind", SINGLE)
def test_ablating_a_feature_takes_away_exactly_what_it_writes(kind: str) -> None:
    held = first(kind)
    acts = small().run(PROMPTS, md.splice(held) + mi.capture(f"{held.site_in}.hook_sae_acts_post"))
    values = acts[f"{held.site_in}.hook_sae_acts_post"]
    top = int(values.sum((0, 1)).argmax())
    edit = mi.intervene(f"{held.site_in}.hook_sae_acts_post", mi.Zero().at(feature=top))
    both = mi.capture(held.site_out) + mi.capture(held.site_out, before=True)
    run = small().run(PROMPTS, md.splice(held) + edit + both)
    x = small().run(PROMPTS, mi.capture(held.site_in))[held.site_in]
    features = held.encode(x)
    without = features.dense().clone()
    without[..., top] = 0
    wanted = held.decode(features.with_dense(without)) - held.decode(features)
    real = run.mask
    close((run[held.site_out] - run.before[held.site_out])[real], wanted[real], 1e-4)
    assert float(wanted[real].abs().max()) > 0.05


@pytest.mark.parametrize("kind", SINGLE)
def test_without_the_error_term_the_reconstruction_stands_in(kind: str) -> None:
    held = first(kind)
    run = small().run([[5, 17, 30]], md.splice(held, error=False) + mi.capture(held.site_out))
    x = small().run([[5, 17, 30]], mi.capture(held.site_in))[held.site_in]
    close(run[held.site_out], held.forward(x), 1e-4)
    by_hand = mi.intervene(held.site_out, mi.Replace(held.forward(x)))
    close(run.logits, small().run([[5, 17, 30]], by_hand).logits, 1e-4)


@given(st.sets(st.integers(0, 2), min_size=1))
def test_a_cross_layer_transcoder_replaces_the_layers_that_are_chosen(layers: set[int]) -> None:
    held = clt()
    run = small().run(PROMPTS, md.splice(held, error=False, layers=layers) + mi.capture("blocks.*.hook_resid_mid"))
    out = (
        small()
        .run(PROMPTS, md.splice(held, error=False, layers=layers) + mi.capture("blocks.*.hook_mlp_out"))
        .stack("hook_mlp_out")
    )
    mids = run.stack("hook_resid_mid")
    wanted = held.decode(held.encode(list(mids)))
    for layer in layers:
        close(out[layer][run.mask], wanted[layer][run.mask], 1e-4)
    if layers == {0, 1, 2}:
        close(out[:, run.mask], held.forward(list(mids))[:, run.mask], 1e-4)


def test_a_feature_of_a_cross_layer_transcoder_writes_to_every_later_layer() -> None:
    held = clt()
    point = "blocks.0.hook_resid_mid.hook_sae_acts_post"
    edit = mi.intervene(point, mi.Add(2.0).at(feature=3, pos=1))
    outs = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    run = small().run([[5, 17, 30]], md.splice(held) + edit + mi.capture(outs) + mi.capture(outs, before=True))
    for layer, out in enumerate(outs):
        added = run[out] - run.before[out]
        close(added[0, 1], 2 * held[0].decoder_rows(torch.tensor([3]))[0, layer], 1e-4)
        assert not added[0, [0, 2]].any()


@given(ROWS, LAYOUTS, SEEDS)
def test_masks_and_special_tokens_keep_a_splice_away(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    chosen = torch.rand(len(rows), max(map(len, rows)), generator=torch.Generator().manual_seed(seed)) > 0.5
    chosen[0, 0] = True
    skipped = sorted({token for row in rows for token in row})[1:]
    by_mask = [[bool(chosen[r, i]) for i in range(len(row))] for r, row in enumerate(rows)]
    by_token = [[token not in skipped for token in row] for row in rows]
    for kept, where in ((by_mask, {"mask": chosen}), (by_token, {"skip_tokens": skipped})):
        if not any(any(row) for row in kept):
            continue
        spec = md.splice(sae(), error=False, **where) + mi.capture(STREAM) + mi.capture(STREAM, before=True)
        run = small().run(ids, spec, attention_mask=mask)
        for row, real in enumerate(run.mask):
            before = run.before[STREAM][row][real]
            wanted = torch.where(torch.tensor(kept[row])[:, None], sae().forward(before), before)
            close(run[STREAM][row][real], wanted, 1e-4)


def test_several_splices_compose_and_names_tell_them_apart() -> None:
    one, two, other = sae(), sae(seed=5), sae(IN, seed=8, writes=(OUT,))
    spec = md.splice(one, error=False) + md.splice(two, error=False, name="two") + md.splice(other)
    points = [f"{STREAM}.hook_sae_acts_post", "two.hook_sae_acts_post", f"{IN}.hook_sae_acts_post"]
    run = small().run([[5, 17, 30]], spec + mi.capture([*points, STREAM]))
    x = small().run([[5, 17, 30]], mi.capture(STREAM))[STREAM]
    close(run[points[0]], one.encode(x).dense(), 1e-4)
    close(run[points[1]], two.encode(one.forward(x)).dense(), 1e-4)
    close(run[STREAM], two.forward(one.forward(x)), 1e-4)
    with pytest.raises(SpecError, match="called the same"):
        small().run([[5]], md.splice(one) + md.splice(two))


def test_pre_activations_reconstruction_and_error_can_be_written() -> None:
    held = sae()
    both = mi.capture(STREAM) + mi.capture(STREAM, before=True)

    def moved(what: str, edit: mi.Intervention) -> tuple[Tensor, Tensor]:
        run = small().run([[5, 17]], md.splice(held) + mi.intervene(f"{STREAM}.hook_sae_{what}", edit) + both)
        return run[STREAM] - run.before[STREAM], run.before[STREAM]

    change, x = moved("acts_pre", mi.Add(1.5).at(feature=4))
    pre = held.pre_activations(x)
    z = pre.dense().clone()
    z[..., 4] += 1.5
    close(change, held.decode(held.activate(pre.with_dense(z))) - held.decode(held.activate(pre)), 1e-4)
    close(moved("recons", mi.Scale(2.0))[0], held.forward(x), 1e-4)
    close(moved("error", mi.Zero())[0], held.forward(x) - x, 1e-4)


def test_gradients_are_those_of_what_is_computed() -> None:
    held, post = sae(), f"{STREAM}.hook_sae_acts_post"
    below = "blocks.0.hook_resid_post"

    def metric(logits: Tensor) -> Tensor:
        return logits[..., 3].sum()

    def grads(spec: mi.HookSpec, *points: str) -> Mapping[str, Tensor]:
        run = small().run([[5, 17, 30]], spec + mi.capture(list(points)), grad=True)
        return run.grad(lambda logits: logits[:, 3], list(points))

    plain = grads(mi.HookSpec(), below, STREAM)
    spliced = grads(md.splice(held), below, post, STREAM)
    close(spliced[below], plain[below], 1e-4)
    close(spliced[post], plain[STREAM] @ held.W_dec.T, 1e-4)
    # through the features alone: the encoder's gradient of those that are active
    constant = grads(md.splice(held, constant_error=True), "blocks.1.hook_mlp_out", post)
    active = held.encode(small().run([[5, 17, 30]], mi.capture(STREAM))[STREAM]).dense() > 0
    close(constant[post], plain[STREAM] @ held.W_dec.T, 1e-4)
    close(constant["blocks.1.hook_mlp_out"], (constant[post] * active) @ held.W_enc.T, 1e-4)
    unseen = grads(md.splice(held, constant_error=True), "blocks.1.hook_mlp_out")
    close(unseen["blocks.1.hook_mlp_out"], constant["blocks.1.hook_mlp_out"], 1e-4)


@pytest.mark.parametrize("kind", ["autoencoder", "transcoder", "cross-layer transcoder"])
@pytest.mark.parametrize("error", [True, False])
def test_generation_is_the_same_with_and_without_a_cache(kind: str, error: bool) -> None:
    point = f"{first(kind).site_in}.hook_sae_acts_post"
    spec = md.splice(KINDS[kind], error) + mi.intervene(point, mi.Add(3.0).at(feature=2)) + mi.capture(point)
    runs = [
        small().generate([[5, 17, 30]], spec, max_new_tokens=5, stop_at_eos=False, cache=cache)
        for cache in (True, False)
    ]
    assert runs[0].tokens.tolist() == runs[1].tokens.tolist()
    close(runs[0][point], runs[1][point], 1e-4)
    close(runs[0].logits, runs[1].logits, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [True, False])
def test_a_sweep_over_features_is_a_loop_over_features(kind: str, error: bool) -> None:
    spec, post = md.splice(KINDS[kind], error), f"{first(kind).site_in}.hook_sae_acts_post"

    def edited(feature: int, pos: int) -> mi.HookSpec:
        return mi.intervene(post, mi.Add(1.0).at(feature=feature, pos=pos))

    metric = mi.metric(lambda logits: logits[:, 7])
    swept = small().sweep(PROMPTS, spec + mi.grid(edited, feature=range(3), pos=range(2)), metric)
    each = [[small().run(PROMPTS, spec + edited(i, pos)).last_logits[:, 7] for pos in range(2)] for i in range(3)]
    close(swept.values, torch.stack([torch.stack(row) for row in each]), 1e-4)


def test_a_run_goes_on_under_an_edit_of_a_feature() -> None:
    spec, post = md.splice(clt(), error=False), "blocks.1.hook_resid_mid.hook_sae_acts_post"
    edit = mi.intervene(post, mi.Add(3.0).at(feature=2)) + mi.capture([post, "blocks.2.hook_mlp_out"])
    later = mi.intervene("blocks.2.hook_resid_pre", mi.Scale(1.5))
    base = small().run(PROMPTS, spec, resumable=True)
    for what in (edit, later):
        close(base.resume(what).logits, small().run(PROMPTS, spec + what).logits, 1e-4)


def test_what_nobody_looks_at_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    encode = md.SparseDictionary.encode

    def counted(self: md.SparseDictionary, x: Tensor, *, sparse: bool = False) -> md.Features:
        seen.append(sparse)
        return encode(self, x, sparse=sparse)

    monkeypatch.setattr(md.SparseDictionary, "encode", counted)
    small().run(PROMPTS, md.splice(sae()))
    assert seen == []
    small().run(PROMPTS, md.splice(sae(), error=False))
    assert seen == [True]
    small().run(PROMPTS, md.splice(sae()) + mi.capture(f"{STREAM}.hook_sae_acts_post"))
    assert seen == [True, False]


def test_what_cannot_be_spliced_is_refused(tmp_path: Any) -> None:
    wide = md.SparseDictionary(reads=(STREAM,), W_enc=random(12, F), W_dec=random(F, 12))
    edit = mi.intervene(f"{STREAM}.hook_sae_error", mi.Zero())
    with pytest.raises(ValueMismatch, match=r"width 12 at 'blocks.1.hook_resid_post', where this model has \[16\]"):
        small().run([[1, 2]], md.splice(wide))
    with pytest.raises(ValueMismatch, match=r"width 16 at 'blocks.2.mlp.hook_post', where this model has \[24\]"):
        small().run([[1, 2]], md.splice(sae(writes=("blocks.2.mlp.hook_post",))))
    with pytest.raises(UnknownPoint, match=r"blocks\.9"):
        small().run([[1, 2]], md.splice(sae("blocks.9.hook_resid_post")))
    with pytest.raises(NotSerialisable, match="insert"):
        md.splice(sae()).save(tmp_path / "x.json")
    with pytest.raises(ReadOnlyPoint, match="no error term"):
        small().run([[1, 2]], md.splice(sae(), error=False) + edit)
    with pytest.raises(SpecError, match="one dictionary"):
        md.splice(sae(), layers=[1])
    with pytest.raises(SpecError, match=r"layers=\[7\]"):
        md.splice(clt(), layers=[7])
    with pytest.raises(SpecError, match="not both"):
        md.splice(sae(), mask=torch.ones(1, 2, dtype=torch.bool), skip_tokens=[1])
    with pytest.raises(SpecError, match="no error of its own"):
        md.splice(clt(), constant_error=True)
    with pytest.raises(SelectorError, match="does not cover row 0, which has 2 tokens"):
        small().run([[1, 2]], md.splice(sae(), mask=torch.ones(1, 1, dtype=torch.bool)))
    with pytest.raises(SpecError, match="looks across positions"):
        small().generate([[1, 2]], md.splice(KINDS["temporal"]), max_new_tokens=2)
