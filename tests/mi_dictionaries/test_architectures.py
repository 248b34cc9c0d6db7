"""Every architecture against its formula, written down a second time, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mi_dictionaries as md
from mi_core.dictionaries import Dictionary
from mi_core.errors import BadConfig, ValueMismatch
from mi_dictionaries import encoding

AT = ("blocks.0.hook_resid_post",)
D, F = 6, 24
SEEDS = st.integers(0, 2**16)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def largest(z: Tensor, k: int, rank: Callable[[Tensor], Tensor] = lambda z: z) -> Tensor:
    """Zero but where fewer than k others rank above."""
    above = (rank(z)[:, None, :] > rank(z)[:, :, None]).sum(-1)
    return torch.where(above < k, z, 0)


def grouped(z: Tensor, k: int) -> Tensor:
    groups = [largest(group, 1) for group in z.chunk(k, dim=-1)]
    return torch.relu(torch.cat(groups, dim=-1))


THETA, R_MAG, B_MAG, B_GATE = (0.3 * numbers(seed, F) for seed in (91, 92, 93, 94))
ACTIVATIONS: dict[str, tuple[md.Activation, Callable[[Tensor], Tensor]]] = {
    "relu": (md.ReLU(), torch.relu),
    "tanh-relu": (md.TanhReLU(), lambda z: torch.tanh(torch.relu(z))),
    "jumprelu": (md.JumpReLU(THETA), lambda z: torch.relu(z) * (z > THETA)),
    "jumprelu without relu": (md.JumpReLU(THETA, relu=False), lambda z: z * (z > THETA)),
    "batch top-k": (md.JumpReLU(0.4), lambda z: torch.relu(z) * (z > 0.4)),
    "gated": (
        md.Gated(B_GATE, B_MAG, R_MAG),
        lambda z: (z + B_GATE > 0) * torch.relu(z * torch.exp(R_MAG) + B_MAG),
    ),
    "top-k": (md.TopK(5), lambda z: torch.relu(largest(z, 5))),
    "top-k of all": (md.TopK(F), torch.relu),
    "top-k without relu": (md.TopK(20, relu=False), lambda z: largest(z, 20)),
    "abs top-k": (md.AbsTopK(5), lambda z: largest(z, 5, torch.abs)),
    "group max": (md.GroupMax(4), lambda z: grouped(z, 4)),
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "TOKENS", 3)
    monkeypatch.setattr(encoding, "FEATURES", 7)


def made(seed: int, activation: md.Activation, **more: Any) -> md.SparseDictionary:
    weights = {"W_enc": numbers(seed, D, F), "b_enc": numbers(seed + 1, F), "b_dec": numbers(seed + 3, D)}
    return md.SparseDictionary(reads=AT, W_dec=numbers(seed + 2, F, D), activation=activation, **(weights | more))


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(SEEDS, st.booleans(), st.booleans())
def test_features_follow_the_formula_dense_sparse_and_in_parts(
    name: str, seed: int, centred: bool, scaled: bool
) -> None:
    activation, formula = ACTIVATIONS[name]
    more: dict[str, Any] = {"b_in": numbers(seed + 4, D)} if centred else {}
    more |= {"pre_scale": numbers(seed + 5, F).abs(), "feature_scale": numbers(seed + 6, F)} if scaled else {}
    sae = made(seed, activation, **more)
    x = numbers(seed + 7, 2, 4, D)
    h = x.reshape(-1, D) - (more["b_in"] if centred else 0)
    z = (h @ sae.W_enc + sae.b_enc) * more.get("pre_scale", 1)
    f = formula(z)
    y = (f * more.get("feature_scale", 1)) @ sae.W_dec + sae.b_dec
    dense, sparse = sae.encode(x), sae.encode(x, sparse=True)
    torch.testing.assert_close(dense.dense(), f.reshape(2, 4, F))
    torch.testing.assert_close(sparse.dense(), f.reshape(2, 4, F))
    assert not bool((sparse.values == 0).any())
    pairs = sparse.token * F + sparse.index
    assert bool((pairs[1:] > pairs[:-1]).all())
    torch.testing.assert_close(sae.activate(sae.pre_activations(x)).dense(), f.reshape(2, 4, F))
    for features in (dense, sparse, dense.sparse()):
        torch.testing.assert_close(sae.decode(features), y.reshape(2, 4, D))
    torch.testing.assert_close(sae.forward(x), y.reshape(2, 4, D))
    assert isinstance(sae, Dictionary)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_the_same_dense_and_sparse(name: str) -> None:
    sae = made(3, ACTIVATIONS[name][0])
    weights = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    x = numbers(5, 8, D).requires_grad_()
    for weight in weights:
        weight.requires_grad_()
    found = []
    for sparse in (False, True):
        loss = sae.decode(sae.encode(x, sparse=sparse)).square().sum()
        found.append(torch.autograd.grad(loss, (x, *weights)))
    for dense, of_rows in zip(*found, strict=True):
        torch.testing.assert_close(dense, of_rows)


@given(SEEDS)
def test_competing_by_what_is_added_is_competing_with_unit_rows(seed: int) -> None:
    sae = made(seed, md.TopK(5)).with_decoder_norms()
    norms = sae.W_dec.norm(dim=-1)
    x = numbers(seed + 9, 8, D)
    torch.testing.assert_close(sae.decoder_norms(), norms)
    f = torch.relu(largest((x @ sae.W_enc + sae.b_enc) * norms, 5))
    torch.testing.assert_close(sae.encode(x).dense(), f)
    torch.testing.assert_close(sae.forward(x), f @ (sae.W_dec / norms[:, None]) + sae.b_dec)
    rows = sae.decoder_rows(torch.tensor([3, 1]))
    torch.testing.assert_close(rows, (sae.W_dec / norms[:, None])[[3, 1]])


@given(SEEDS)
def test_a_skip_connection_takes_the_activations_as_they_come(seed: int) -> None:
    skip = numbers(seed + 4, 5, D)
    x = numbers(seed + 5, 8, D)
    more = {"W_dec": numbers(seed, F, 5), "b_dec": numbers(seed, 5), "b_in": numbers(seed, D), "W_skip": skip}
    weights = {"W_enc": numbers(seed + 1, D, F)}
    coder = md.SparseDictionary(reads=AT, writes=("blocks.0.hook_mlp_out",), **weights, **more)
    f = torch.relu((x - more["b_in"]) @ weights["W_enc"])
    torch.testing.assert_close(coder.forward(x), f @ more["W_dec"] + more["b_dec"] + x @ skip.T)
    torch.testing.assert_close(coder.decode(coder.encode(x)), f @ more["W_dec"] + more["b_dec"])
    assert (coder.d_in, coder.d_sae, coder.d_out, coder.site_out) == (D, F, 5, "blocks.0.hook_mlp_out")


@given(SEEDS)
def test_a_crosscoder_sums_over_its_reads_and_writes_to_each(seed: int) -> None:
    enc, dec, b_dec = numbers(seed, 3, D, F), numbers(seed + 1, F, 2, D), numbers(seed + 2, 2, D)
    coder = md.SparseDictionary(reads=tuple("abc"), writes=tuple("de"), W_enc=enc, W_dec=dec, b_dec=b_dec)
    x = numbers(seed + 3, 4, 3, D)
    f = torch.relu(torch.einsum("trd,rdf->tf", x, enc))
    torch.testing.assert_close(coder.encode(x, sparse=True).dense(), f)
    torch.testing.assert_close(coder.forward(x), torch.einsum("tf,fwd->twd", f, dec) + b_dec)
    assert coder.encoder_rows(torch.tensor([2])).shape == (1, 3, D)
    torch.testing.assert_close(coder.encoder_rows(torch.tensor([2]))[0], enc[:, :, 2])
    apart = md.SparseDictionary(
        reads=tuple("abc"), writes=tuple("de"), W_enc=enc, W_dec=md.Stacked(tuple(dec.unbind(1))), b_dec=b_dec
    )
    torch.testing.assert_close(apart.forward(x), coder.forward(x))
    torch.testing.assert_close(apart.decode(apart.encode(x)), coder.forward(x))


@given(SEEDS)
def test_layers_of_a_cross_layer_transcoder_add_up(seed: int) -> None:
    layers, names = 3, [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    encoders = [numbers(seed + i, D, F) for i in range(layers)]
    decoders = [numbers(seed + 10 + i, F, layers - i, D) for i in range(layers)]
    biases, skips = numbers(seed + 20, layers, D), numbers(seed + 21, layers, D, D)
    whole = md.DictionarySet(
        tuple(
            md.cross_layer_transcoder_layer(
                reads=f"blocks.{i}.hook_resid_mid",
                writes=names[i:],
                W_enc=encoders[i],
                W_dec=decoders[i],
                b_dec=biases[i],
                W_skip=skips[i],
            )
            for i in range(layers)
        )
    )
    x = numbers(seed + 30, layers, 4, D)
    f = torch.relu(torch.einsum("ltd,ldf->ltf", x, torch.stack(encoders)))
    without = torch.stack(
        [b + sum(f[i] @ decoders[i][:, at - i] for i in range(at + 1)) for at, b in enumerate(biases)]
    )
    features = whole.encode(x, sparse=True)
    torch.testing.assert_close(whole.decode(features), without)
    torch.testing.assert_close(whole.forward(x), without + torch.einsum("ltd,led->lte", x, skips))
    assert (whole.writes, whole.cross_layer, list(whole)) == (tuple(names), True, [0, 1, 2])


@given(SEEDS, st.sampled_from([None, 1, 4]), st.booleans())
def test_matching_pursuit_takes_the_best_row_of_what_is_left(seed: int, most: int | None, stops: bool) -> None:
    rows = torch.nn.functional.normalize(numbers(seed, F, D), dim=-1)
    bias = numbers(seed + 1, D)
    pursuit = md.MatchingPursuit(
        reads=AT, W_dec=rows, b_in=bias, b_dec=bias, max_iterations=most, stop_on_duplicate_support=stops
    )
    x = numbers(seed + 2, 5, D)
    wanted = torch.zeros(5, F, dtype=torch.float64)
    for token, start in enumerate(x - bias):
        left = start.clone()
        for _ in range(most or D):
            best = int((rows @ left).argmax())
            value = torch.relu(rows[best] @ left)
            known = bool(wanted[token, best] != 0)
            wanted[token, best] += value
            left = left - value * rows[best]
            if float(left.norm()) < 1e-2 or (stops and (known or float(value) == 0)):
                break
    torch.testing.assert_close(pursuit.encode(x).dense(), wanted)
    torch.testing.assert_close(pursuit.encode(x, sparse=True).dense(), wanted)
    torch.testing.assert_close(pursuit.forward(x), wanted @ rows + bias)


@given(SEEDS)
def test_temporal_features_are_what_earlier_tokens_do_not_predict(seed: int) -> None:
    n, heads, width, k = 5, 2, 4, 3
    rows, enc, bias = numbers(seed, F, D), numbers(seed + 1, D, F), numbers(seed + 2, D)
    layer = {
        name: (0.1 * numbers(seed + 3 + i, out, F), 0.1 * numbers(seed + 9 + i, out))
        for i, (name, out) in enumerate((("k_ctx", width), ("q_target", width), ("v_ctx", F), ("c_proj", F)))
    }
    temporal = md.Temporal(
        reads=AT,
        W_dec=rows,
        W_enc=enc,
        b_dec=bias,
        b_in=bias,
        k=k,
        attention=(md.TemporalAttention(n_heads=heads, **layer),),
    )
    x = numbers(seed + 20, 2, n, D)
    novel, recon = torch.zeros(2, n, F, dtype=torch.float64), torch.zeros_like(x)
    for row in range(2):
        h = x[row] - bias
        codes = torch.relu(h @ enc / (4 * D))
        context = torch.cat([torch.zeros(1, F, dtype=torch.float64), codes[:-1]])
        q, key, v = (
            of @ layer[name][0].T + layer[name][1]
            for of, name in ((codes, "q_target"), (context, "k_ctx"), (context, "v_ctx"))
        )
        for t in range(n):
            mixed = []
            for head in range(heads):
                at, to = (
                    slice(head * width // heads, (head + 1) * width // heads),
                    slice(head * F // heads, (head + 1) * F // heads),
                )
                weights = torch.softmax(key[: t + 1, at] @ q[t, at] / (width // heads) ** 0.5, dim=0)
                mixed.append(weights @ v[: t + 1, to])
            predicted = torch.relu(layer["c_proj"][0] @ torch.cat(mixed) + layer["c_proj"][1])
            written = predicted @ rows
            share = (written @ h[t]) / (written.norm() + 1e-6) ** 2
            novel[row, t] = largest(torch.relu((h[t] - share * written) @ enc / (4 * D))[None], k)[0]
            recon[row, t] = novel[row, t] @ rows + share * written + bias
    torch.testing.assert_close(temporal.encode(x).dense(), novel)
    torch.testing.assert_close(temporal.decode(temporal.encode(x, sparse=True)), recon)
    torch.testing.assert_close(temporal.forward(x), recon)
    torch.testing.assert_close(temporal.forward(x[0]), recon[0])


def test_activations_of_another_width_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueMismatch, match=r"\[\.\.\. 6\], it was given \[3, 7\]"):
        made(0, md.ReLU()).encode(torch.zeros(3, 7))


def test_weights_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"24 features, b_enc \[5\] has 5"):
        made(0, md.ReLU(), b_enc=torch.zeros(5))
    with pytest.raises(BadConfig, match="do not fit"):
        made(0, md.ReLU(), b_dec=torch.zeros(5))
    with pytest.raises(BadConfig, match="groups of one size"):
        made(0, md.GroupMax(5)).encode(torch.zeros(3, D, dtype=torch.float64))


def test_what_is_no_number_is_seen() -> None:
    x = torch.full((1, D), torch.nan, dtype=torch.float64)
    for activation, _ in ACTIVATIONS.values():
        assert bool(made(0, activation).encode(x, sparse=True).values.isnan().any())
        assert bool(made(0, activation).encode(x).dense().isnan().any())
