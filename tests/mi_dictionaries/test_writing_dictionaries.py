"""What is written and read again is the same, to the last bit; what a layout cannot say is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mi_dictionaries as md
from mi_core.errors import BadConfig, CorruptCheckpoint, NotSerialisable
from mi_core.safetensors_header import read_header
from mi_dictionaries.rows import Stacked

TYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
POINT = "blocks.1.hook_resid_post"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def sparse(draw: Any, *, inside: bool = False, transcoder: bool | None = None) -> md.SparseDictionary:
    """Any architecture; ``inside``: only what SAELens can say."""
    d, n, seed, dtype = draw(st.integers(2, 6)), draw(st.integers(4, 9)), draw(st.integers(0, 10**6)), draw(TYPES)
    transcodes = draw(st.booleans()) if transcoder is None else transcoder
    out = draw(st.integers(2, 6)) if transcodes else d

    def make(*shape: int) -> torch.Tensor:
        nonlocal seed
        seed += 1
        return normal(seed, *shape, dtype=dtype)

    k = draw(st.integers(1, n))
    kinds: list[Any] = [md.ReLU(), md.JumpReLU(make(n).abs())]
    if not transcodes:
        kinds += [md.TopK(k), md.AbsTopK(k), md.Gated(make(n), make(n), make(n))]
    if not inside:
        kinds += [md.TanhReLU(), md.JumpReLU(0.5), md.JumpReLU(make(n), relu=False), md.TopK(k, relu=False)]
        kinds += [md.GroupMax(1)]
    activation = draw(st.sampled_from(kinds))
    b_dec = make(out)
    transforms = draw(
        st.sampled_from([(), (md.LayerNorm(),), (md.ConstantNorm(),), (md.Centred(),), (md.Centred(), md.LayerNorm())])
        if not transcodes
        else st.sampled_from([(), (md.LayerNorm(undo=False),)])
    )
    if not inside:
        transforms = draw(st.sampled_from([transforms, (md.Scaled(1.5), md.Shifted(make(d)))]))
    transposed = draw(st.booleans())
    found = md.SparseDictionary(
        reads=(POINT if not transcodes else "blocks.1.mlp.hook_in",),
        writes=() if not transcodes else ("blocks.1.hook_mlp_out",),
        W_enc=make(n, d).T if transposed else make(d, n),
        b_enc=None if isinstance(activation, md.Gated) else make(n),
        W_dec=make(out, n).T if transposed else make(n, out),
        b_dec=b_dec,
        b_in=b_dec if not transcodes and draw(st.booleans()) else None,
        W_skip=make(out, d) if transcodes and draw(st.booleans()) else None,
        activation=activation,
        transforms=transforms,
        heads=not transcodes and draw(st.booleans()),
        about=md.About(model="tiny", details={"context_size": 128, "prepend_bos": True}),
    )
    if isinstance(activation, md.TopK | md.AbsTopK) and draw(st.booleans()) and dtype == torch.float32:
        found = found.with_decoder_norms()
    return found


def same(one: Any, other: Any) -> bool:
    """Equal fields, tensors bit by bit, wherever they lie."""
    one, other = (each.whole() if hasattr(each, "whole") else each for each in (one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one) if field.name != "about"]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Write and read; the files stay, as weights are read from them later."""

    def written(write: Any, found: Any) -> Any:
        folder = tmp_path_factory.mktemp("written")
        write(found, folder)
        return md.load(folder)

    return written


@given(sparse())
def test_our_own_layout_gives_back_every_dictionary(again, found):
    read = again(md.save, found)
    assert same(read, found)
    assert (read.about.model, read.about.details) == (found.about.model, dict(found.about.details))
    assert read.about.format == "mi_dictionaries"
    assert read.W_enc.stride() == found.W_enc.stride()


@given(sparse(inside=True))
def test_saelens_layout_gives_back_every_dictionary_that_it_can_hold(again, found):
    read = again(md.save_saelens, found)
    assert same(read, found)
    assert read.about.details["context_size"] == 128


def layers(seed: int, kind: str, skips: bool, dtype: torch.dtype, n: int = 3) -> tuple[md.SparseDictionary, ...]:
    d, f = 4, 7
    made = []
    for layer in range(n):
        activation: Any = {
            "relu": md.ReLU(),
            "jumprelu": md.JumpReLU(normal(seed + layer, f, dtype=dtype), relu=False),
            "topk": md.TopK(3, relu=False),
        }[kind]
        made.append(
            md.SparseDictionary(
                reads=(f"blocks.{layer}.mlp.hook_in",),
                writes=(f"blocks.{layer}.hook_mlp_out",),
                W_enc=normal(seed + 10 + layer, f, d, dtype=dtype).T,
                b_enc=normal(seed + 20 + layer, f, dtype=dtype),
                W_dec=normal(seed + 30 + layer, f, d, dtype=dtype),
                b_dec=normal(seed + 40 + layer, d, dtype=dtype),
                W_skip=normal(seed + 50 + layer, d, d, dtype=dtype) if skips else None,
                activation=activation,
                about=md.About(model="me/tiny"),
            )
        )
    return tuple(made)


def across(seed: int, kind: str, skips: bool, dtype: torch.dtype, n: int = 3) -> tuple[md.SparseDictionary, ...]:
    points = [f"blocks.{layer}.hook_mlp_out" for layer in range(n)]
    return tuple(
        md.cross_layer_transcoder_layer(
            reads=one.reads[0],
            writes=points[layer:],
            W_dec=normal(seed + 60 + layer, one.d_sae, n - layer, 4, dtype=dtype),
            b_dec=one.b_dec,
            **{name: getattr(one, name) for name in ("W_enc", "b_enc", "W_skip", "activation", "about")},
        )
        for layer, one in enumerate(layers(seed, kind, skips, dtype, n))
    )


@given(st.integers(0, 10**6), st.sampled_from(["relu", "jumprelu", "topk"]), st.booleans(), st.booleans(), TYPES)
def test_circuit_tracer_s_and_our_own_layout_give_back_every_set(again, seed, kind, skips, cross_layer, dtype):
    own = (across if cross_layer else layers)(seed, kind, skips, dtype)
    found = md.DictionarySet(own, md.About(model="me/tiny"))
    for write in (md.save_circuit_tracer, md.save):
        read = again(write, found)
        assert same(read.dictionaries, found.dictionaries)
        assert (read.about.model, read.cross_layer) == ("me/tiny", cross_layer)


def test_decoders_that_are_stacked_are_written_apart_and_as_one(tmp_path):
    own = list(across(3, "relu", False, torch.float32))
    parts = tuple(own[0].W_dec.unbind(1))
    own[0] = dataclasses.replace(own[0], W_dec=Stacked(parts))
    found = md.DictionarySet(tuple(own))
    md.save(found, tmp_path / "own")
    assert same(md.load(tmp_path / "own").dictionaries, found.dictionaries)
    md.save_circuit_tracer(found, tmp_path / "theirs", model="me/tiny", scan="me-tiny")
    assert same(md.load(tmp_path / "theirs", layer=0).W_dec, torch.stack(parts, 1))


def test_matching_pursuit_and_temporal_come_back(tmp_path):
    pursuit = md.MatchingPursuit(
        reads=(POINT,), W_dec=normal(1, 7, 4), b_dec=normal(2, 4), b_in=normal(2, 4), residual_threshold=0.25
    )
    attention = md.TemporalAttention(
        n_heads=2,
        k_ctx=(normal(3, 4, 8), normal(4, 4)),
        q_target=(normal(5, 4, 8), normal(6, 4)),
        v_ctx=(normal(7, 8, 8), normal(8, 8)),
        c_proj=(normal(9, 8, 8), normal(10, 8)),
    )
    temporal = md.Temporal(
        reads=(POINT,),
        transforms=(md.Scaled(0.5),),
        W_dec=normal(11, 8, 4),
        W_enc=normal(12, 4, 8),
        b_dec=normal(13, 4),
        b_in=normal(13, 4),
        attention=(attention, attention),
        k=3,
    )
    for number, found in enumerate((pursuit, temporal)):
        for write in (md.save, md.save_saelens):
            folder = tmp_path / f"{number}-{write.__name__}"
            write(found, folder)
            assert same(md.load(folder), found)


def test_scales_that_saelens_has_no_field_for_are_folded_and_features_keep_their_values(tmp_path):
    found = md.SparseDictionary(
        reads=(POINT,),
        W_enc=normal(1, 4, 7),
        b_enc=normal(2, 7),
        W_dec=normal(3, 7, 4),
        b_dec=normal(4, 4),
        b_in=normal(4, 4),
        activation=md.JumpReLU(0.2),
        transforms=(md.Scaled(1.7),),
        pre_scale=normal(5, 7).abs(),
        feature_scale=normal(6, 7).abs(),
    )
    md.save_saelens(found, tmp_path)
    read, x = md.load(tmp_path), normal(7, 5, 4)
    torch.testing.assert_close(read.encode(x).dense(), found.encode(x).dense())
    torch.testing.assert_close(read.forward(x), found.forward(x))
    assert read.transforms == ()


def test_what_a_layout_cannot_say_is_refused_with_the_reason(tmp_path):
    one = layers(1, "relu", False, torch.float32)[0]
    refusals = {
        "what it subtracts before encoding": dataclasses.replace(one, b_in=normal(1, 4)),
        "transforms activations by ['Shifted']": dataclasses.replace(one, transforms=(md.Shifted(normal(2, 4)),)),
        "there is no transcoder with TopK": dataclasses.replace(one, activation=md.TopK(2)),
        "lets features below zero through": dataclasses.replace(one, activation=md.JumpReLU(-0.5, relu=False)),
        "reads or writes several points": across(1, "relu", False, torch.float32)[0],
        "a DictionarySet has no architecture": md.DictionarySet((one,)),
    }
    for reason, found in refusals.items():
        with pytest.raises(NotSerialisable) as caught:
            md.save_saelens(found, tmp_path)
        assert reason in str(caught.value)
    refusals = {
        "transforms or centres its input": dataclasses.replace(one, b_in=normal(1, 4)),
        "keeps positive features only": dataclasses.replace(one, activation=md.TopK(2)),
        "has thresholds below zero": dataclasses.replace(one, activation=md.JumpReLU(-0.5)),
        "has TanhReLU": dataclasses.replace(one, activation=md.TanhReLU()),
        "scales its features": dataclasses.replace(one, feature_scale=normal(2, 7)),
        "layers 0 to 0 are needed": dataclasses.replace(one, reads=("blocks.4.mlp.hook_in",)),
    }
    for reason, found in refusals.items():
        with pytest.raises(NotSerialisable, match=reason):
            md.save_circuit_tracer(md.DictionarySet((found,)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_our_own_layout_makes_nothing_but_its_own_objects(tmp_path):
    md.save(layers(1, "relu", False, torch.float32)[0], tmp_path)
    path = tmp_path / "dictionary.json"
    held = json.loads(path.read_text())

    def refused(match: str, **change: Any) -> None:
        path.write_text(json.dumps({**held, **change}))
        with pytest.raises(BadConfig, match=match):
            md.load(tmp_path)

    refused("version 2", version=2)
    refused("none of our objects", dictionary={"$class": "Popen", "args": ["true"]})
    refused("none of our objects", dictionary={**held["dictionary"], "hook": 1})
    refused("cannot be made", dictionary={"$class": "SparseDictionary", "reads": ["x"]})
    refused("which 'dictionary.safetensors' lacks", dictionary={**held["dictionary"], "W_enc": {"$tensor": "../W"}})
    refused("holds a About", dictionary={"$class": "About"})
    path.write_text(json.dumps(held))
    whole = (tmp_path / "dictionary.safetensors").read_bytes()
    (tmp_path / "dictionary.safetensors").write_bytes(whole[:-8])
    with pytest.raises(CorruptCheckpoint, match="truncated"):
        md.load(tmp_path)


def test_weights_of_a_safetensors_file_stay_in_it_until_they_are_used(tmp_path):
    found = layers(1, "relu", False, torch.float32)
    md.save_circuit_tracer(md.DictionarySet(found), tmp_path)
    read = md.load(tmp_path)[1]
    path = tmp_path / "layer_1.safetensors"
    last = list(read_header(path))[-1]
    assert getattr(read, last).flatten()[-1] != 0
    with path.open("r+b") as file:  # the mapping shows what the file holds, so nothing was copied
        file.seek(-4, 2)
        file.write(bytes(4))
    assert getattr(read, last).flatten()[-1] == 0
