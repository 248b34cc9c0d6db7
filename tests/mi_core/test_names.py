from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

from mi_core.errors import UnknownPoint
from mi_core.names import Point, Points, spellings, split_name
from mi_core.protocols import ModelShape, Residual, Site
from mi_core.vocabulary import LOOKALIKES, STANDARD, site

POINTS = small().points
NAMES = [point.name for point in POINTS]


def found(*patterns: str) -> list[str]:
    return [point.name for point in POINTS.match(list(patterns))]


def of(*sites: Site, layers: int = 2, **shape: object) -> Points:
    return Points(sites, ModelShape(layers, 4, 7, None, **shape), "toy")  # type: ignore[arg-type]


@given(st.sampled_from(NAMES), st.booleans(), st.booleans())
def test_every_point_is_found_by_every_spelling_of_its_name(name: str, short: bool, mixer: bool) -> None:
    spelled = re.sub(r"hook_(\w+)$", r"\1", name) if short else name
    spelled = spelled.replace(".attn.", ".mixer.") if mixer else spelled
    assert POINTS.find(spelled).name == name
    assert found(spelled) == [name]


@given(st.sampled_from(NAMES), st.integers(0, 2))
def test_a_star_stands_for_one_part(name: str, at: int) -> None:
    parts = name.split(".")
    parts[at % len(parts)] = "*"
    if parts == ["*"]:
        return
    matched = found(".".join(parts))
    expected = [
        n
        for n in NAMES
        if len(n.split(".")) == len(parts)
        and all(p in ("*", q) for p, q in zip(parts, n.split("."), strict=True))
        and (parts[-1] != "*" or not POINTS.by_name[n].site.on_demand)
    ]
    assert matched == expected


def test_a_lone_star_is_every_point_that_is_not_on_demand() -> None:
    assert found("*") == [point.name for point in POINTS if not point.site.on_demand]
    assert any(point.site.on_demand for point in POINTS)
    assert found("blocks.*.attn.hook_result") == [f"blocks.{layer}.attn.hook_result" for layer in range(3)]
    assert not any("hook_result" in name for name in found("blocks.*.attn.*", "blocks.*.*.hook_r*"))


@given(st.integers(0, 2), st.integers(0, 2))
def test_braces_select_layers_with_both_ends(first: int, last: int) -> None:
    wanted = [f"blocks.{layer}.hook_resid_post" for layer in range(first, last + 1)]
    pattern = f"blocks.{{{first}..{last}}}.resid_post"
    if wanted:
        assert found(pattern) == wanted
    else:
        with pytest.raises(UnknownPoint):
            found(pattern)
    assert found(f"blocks.{{{first},{last}}}.hook_resid_post") == sorted(
        {f"blocks.{layer}.hook_resid_post" for layer in (first, last)}
    )


@given(st.lists(st.sampled_from([*NAMES, "blocks.*.hook_resid_post", "*.hook_normalized"]), min_size=1, max_size=4))
def test_a_list_is_a_union_in_firing_order(patterns: list[str]) -> None:
    union = {name for pattern in patterns for name in found(pattern)}
    assert found(*patterns) == [name for name in NAMES if name in union]


def test_a_listed_layer_that_does_not_exist_is_refused_and_a_range_clips() -> None:
    with pytest.raises(UnknownPoint, match=r"no layer 7.*3 layers: 0 to 2"):
        found("blocks.{0,7}.hook_resid_post")
    assert found("blocks.{1..9}.hook_resid_post") == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.1.atn.hook_pattern", "Did you mean 'blocks.1.attn.hook_pattern'"),
        ("blocks.1.hook_resid_pots", "Did you mean 'blocks.1.hook_resid_post'"),
        ("blocks.3.hook_resid_post", "It has 3 layers: 0 to 2"),
        ("hook_resid_post", r"in the layers: name it 'blocks\.\*\.hook_resid_post'"),
        ("attn.pattern", r"in the layers: name it 'blocks\.\*\.attn.hook_pattern'"),
        ("blocks.1.attn.hook_sink", "this architecture .* does not have it"),
        ("qwertz", r"model.hook_points\(\)"),
        ("blocks.*.attn.nothing", "has no point"),
    ],
)
def test_unknown_names_are_answered_with_what_to_do(name: str, said: str) -> None:
    with pytest.raises(UnknownPoint, match=said) as caught:
        found(name)
    assert repr(name) in str(caught.value)
    assert caught.value.name == name


@given(st.sampled_from(LOOKALIKES), st.booleans())
def test_a_suggestion_names_its_lookalike(pair: tuple[str, str, str], turned: bool) -> None:
    one, other, what = pair
    meanings = what.split(" / ")
    if turned:
        one, other, meanings = other, one, meanings[::-1]
    layers = range(2) if STANDARD[one].in_layer else None
    sites = [site(name, layers, d_model=4, d_vocab=7, head=2, kv_head=2, d_head=2) for name in (one, other)]
    prefix = "" if layers is None else "blocks.1."
    with pytest.raises(UnknownPoint) as caught:
        of(*sites).find(f"{prefix}{one}x")
    assert f"Did you mean '{prefix}{one}'" in str(caught.value)
    assert f"{other} is {meanings[1]}" in str(caught.value)


def test_a_parallel_layer_says_why_it_has_no_stream_between_its_parts() -> None:
    points = of(site("hook_resid_pre", range(2), d_model=4), residual=(Residual("parallel"),) * 2)
    for name in ("blocks.0.hook_resid_mid", "blocks.*.resid_mid"):
        with pytest.raises(UnknownPoint, match="attention and MLP run in parallel"):
            points.match(name)


def test_the_mixer_of_a_hybrid_is_whatever_its_layers_have() -> None:
    dims = ("batch", "pos", "d_model")
    points = of(
        Site("attn.hook_z", dims, layers=(1,)),
        Site("mixer.hook_z", dims, layers=(0, 2)),
        layers=3,
    )
    assert [p.name for p in points.match("blocks.*.mixer.z")] == [
        "blocks.0.mixer.hook_z",
        "blocks.1.attn.hook_z",
        "blocks.2.mixer.hook_z",
    ]
    assert [p.layer for p in points.match("blocks.*.attn.hook_z")] == [1]
    assert points.find("blocks.2.rwkv.z").name == "blocks.2.mixer.hook_z"


def test_a_site_may_be_called_otherwise_too() -> None:
    points = of(Site("mixer.hook_log_decay", (), layers=(0, 1), also=("mixer.hook_decay",)), layers=2)
    names = [point.name for point in points]
    for spelling in ("mixer.hook_decay", "rwkv.hook_decay", "rwkv.decay"):
        assert points.find(f"blocks.1.{spelling}").name == names[1]
        assert [point.name for point in points.match(f"blocks.*.{spelling}")] == names
    assert [point.name for point in points.match("*")] == names
    assert len(points) == 2


def test_points_outside_the_layers_stand_where_their_sites_do() -> None:
    assert NAMES[0] == "hook_embed"
    assert NAMES[-1] == "hook_logits"
    assert [p.name for p in POINTS if POINTS.embedding(p)] == ["hook_embed"]
    assert not any(of(Site("hook_logits", ())).embedding(p) for p in of(Site("hook_logits", ())))


def test_points_of_inserts_follow_the_point_they_are_named_after() -> None:
    own = Point("blocks.0.hook_mlp_out.hook_acts", Site("hook_acts", ()), 0)
    other = Point("elsewhere.hook_acts", Site("hook_acts", ()), 0)
    names = [point.name for point in POINTS.extended([own, other])]
    assert names.index(own.name) == names.index("blocks.0.hook_mlp_out") + 1
    assert names[-1] == other.name
    assert len(names) == len(NAMES) + 2


@given(st.text("ab.{},1", max_size=12))
def test_parts_lose_nothing_but_dots_outside_braces(name: str) -> None:
    if name.count("{") == name.count("}") == 0:
        assert [part for part in name.split(".") if part] == split_name(name)


def test_spellings_start_with_the_name_itself() -> None:
    assert next(iter(spellings("blocks.0.attn.hook_q"))) == "blocks.0.attn.hook_q"
