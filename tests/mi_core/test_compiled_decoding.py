"""Generations whose columns are replayed by graphs are the generations; graphs run as they are traced."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sly_insert import Sly
from small_models import CONFIG, LAYOUTS, ROWS, SEEDS, close, family_example, laid_out, random, small

import mi_core as mi
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.errors import InputError, NotCompiled
from mi_core.generation import GenerationInterrupted
from mi_core.protocols import Site

NEW = 5
RESID, SCORES, PATTERN, Z = (
    "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.2.attn.hook_z",
)
WANTED = mi.capture([RESID, SCORES, PATTERN, Z, "hook_embed", "hook_logits"])
ADD = mi.Add(random(16), scale=3.0)


@pytest.fixture(autouse=True, scope="module")
def no_compiler() -> Iterator[None]:
    """What a compiler makes of a graph is its own business, and takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda graph, **options: graph)
        yield


def built(config: dict[str, Any]) -> mi.Model:
    model = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(model, 0)
    return model


def same(one: mi.Generation, two: mi.Generation) -> None:
    """Tokens bit for bit, everything else to rounding."""
    assert one.new_tokens == two.new_tokens
    assert (one.ended, one.seed) == (two.ended, two.seed)
    assert (one.receipt.fired, one.receipt.notes) == (two.receipt.fired, two.receipt.notes)
    assert list(one) == list(two)
    for name in two:
        close(one[name], two[name], atol=1e-5 * float(largest(two[name])))
    for name in two.before:
        close(one.before[name], two.before[name])
    close(one.logits, two.logits, atol=1e-5 * float(largest(two.logits)))


def largest(value: torch.Tensor) -> torch.Tensor:
    return torch.where(value.isfinite(), value, 0.0).abs().amax().clamp(min=1.0) if value.numel() else torch.ones(())


def replayed(compiled: Any) -> int:
    return sum(graph.columns for graph in compiled.decoding.graphs)


SPECS = {
    "nothing": mi.HookSpec(),
    "steered": (
        mi.intervene(RESID, ADD.at(pos=slice(-1, None)))
        + mi.intervene(Z, mi.Replace(random(2, 4, seed=2)).at(head=[0, 3], pos=mi.GENERATED))
        + mi.intervene("hook_logits", mi.Add(random(61, seed=4)).at(pos=mi.GENERATED))
    ),
    "one row": mi.intervene(RESID, ADD.at(batch=0)) + mi.intervene("blocks.2.hook_resid_pre", mi.ProjectOut(ADD.value)),
    "edges": (
        mi.intervene(SCORES, mi.Knockout().at(query_pos=mi.GENERATED, key_pos=0))
        + mi.intervene(PATTERN, mi.Reweight(scale=3.0).at(query_pos=slice(-1, None), key_pos=0))
        + mi.intervene("blocks.2.attn.hook_attn_scores", mi.Scale(0.5))
        + mi.intervene("blocks.0.attn.hook_pattern", mi.Scale(0.5).at(head=1))
    ),
    "noise": mi.intervene(RESID, mi.Noise(1.0, seed=3).at(pos=mi.GENERATED)) + mi.intervene(SCORES, mi.Noise(0.5, 1)),
    "keys by head": mi.intervene("blocks.1.attn.hook_k_per_head", mi.Scale(0.5).at(head=1, pos=mi.GENERATED)),
}


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=1)
@given(rows=ROWS, layout=LAYOUTS, seed=SEEDS)
def test_a_compiled_generation_is_the_generation(rows: list[list[int]], layout: str, seed: int, name: str) -> None:
    model, spec = small(11), SPECS[name] + WANTED
    compiled = model.compile(spec, strict=True)
    ids, mask = laid_out(rows, layout, seed)
    asked: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": NEW}
    same(compiled.generate(ids, **asked), model.generate(ids, spec, **asked))
    # a graph is made of the first column; or of the second, where the first one's write tells heads apart
    assert replayed(compiled) == NEW - 1 - ("by head" in name)


@pytest.mark.parametrize(
    "family",
    ["gpt2", "bloom", "mpt", "qwen3", "gemma3_text", "minicpm3", "rwkv", "rwkv7"],
)
def test_families_of_every_kind_decode_by_graphs(family: str) -> None:
    model = family_example(family)
    steer = mi.intervene("blocks.0.hook_resid_post", mi.Add(0.3 * random(model.shape.d_model)).at(pos=slice(-1, None)))
    spec = steer + mi.capture(["blocks.*.hook_resid_post", "blocks.0.hook_attn_out"])
    compiled = model.compile(spec, strict=True)
    asked: dict[str, Any] = {"max_new_tokens": 4, "stop_at_eos": False}
    for rows in ([[1, 2, 3], [4, 5]], [[9, 8], [7, 6]]):
        same(compiled.generate(rows, **asked), model.generate(rows, spec, **asked))
    assert len(compiled.decoding.graphs) == 1
    assert replayed(compiled) == 7


LONG = {"short_factor": [1.0, 1.2], "long_factor": [1.0, 2.0], "original_max_position_embeddings": 64}


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "longrope", **LONG}])
def test_rotary_scalings_are_no_obstacle_where_all_rows_are_too_short_for_them(rope: dict[str, Any]) -> None:
    model = built({**CONFIG, "rope_scaling": rope})
    compiled = model.compile(strict=True)
    same(compiled.generate([[1, 2], [3]], max_new_tokens=4), model.generate([[1, 2], [3]], max_new_tokens=4))
    assert replayed(compiled) == 2


def test_states_are_written_in_graphs() -> None:
    model = family_example("rwkv7")
    spec = mi.intervene("blocks.*.mixer.hook_state", mi.Scale(0.5).at(pos=mi.GENERATED))
    spec += mi.capture("blocks.*.mixer.hook_state")
    compiled = model.compile(spec, strict=True)
    made = compiled.generate([[1, 2, 3]], max_new_tokens=4, stop_at_eos=False)
    same(made, model.generate([[1, 2, 3]], spec, max_new_tokens=4, stop_at_eos=False))
    run = model.run(made.tokens, mi.intervene("blocks.*.mixer.hook_state", mi.Scale(0.5).at(pos=[3, 4, 5, 6])))
    close(made.logits[0], run.logits[0, 2:-1])
    assert replayed(compiled) == 3


def test_sinks_are_heard_in_graphs() -> None:
    model = family_example("granite_swa")
    spec = mi.capture("blocks.*.attn.hook_sink")
    asked: dict[str, Any] = {"max_new_tokens": 6, "stop_at_eos": False}
    compiled = model.compile(spec, strict=True)
    same(compiled.generate([[1, 2]], **asked), model.generate([[1, 2]], spec, **asked))


@settings(max_examples=4)
@given(
    ROWS,
    st.sampled_from([0, 5, [7, 3], slice(4, 8), slice(None, None, 2), mi.PROMPT, mi.GENERATED.first]),
    st.sampled_from([slice(None), 5, slice(2, 7), -1]),
)
def test_columns_where_something_begins_or_ends_run_as_they_are(rows: list[list[int]], pos: Any, key: Any) -> None:
    ids, mask = laid_out(rows, "right")
    spec = mi.intervene(RESID, ADD.at(pos=pos)) + mi.capture(PATTERN).at(key_pos=key)
    spec += mi.capture(RESID, before=True).at(pos=pos, batch=[len(rows) - 1])
    asked: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 7}
    compiled = small(11).compile(spec, strict=True)
    for _ in range(2):
        same(compiled.generate(ids, **asked), small(11).generate(ids, spec, **asked))


def test_a_graph_waits_while_a_single_column_runs_as_it_is() -> None:
    model, spec = small(11), mi.capture(RESID).at(pos=[5, 8])
    compiled = model.compile(spec, strict=True)
    for _ in range(2):
        same(compiled.generate([[1, 2]], max_new_tokens=9), model.generate([[1, 2]], spec, max_new_tokens=9))
    assert len(compiled.decoding.graphs) == 1
    assert replayed(compiled) == 9 - 2 - 1 + 9 - 2


def test_one_graph_serves_generations_of_like_length_and_says_so() -> None:
    compiled = small(11).compile(strict=True)
    for new in (4, 7, 9):
        compiled.generate([[1, 2, 3]], max_new_tokens=new)
    (graph,) = compiled.decoding.graphs
    assert graph.columns == 2 + 6 + 8
    said = f"a column of 1 row(s), room for 64: one graph of {graph.traced.operations} operations, replayed 16 times"
    assert compiled.explain() == said
    compiled.generate([[1, 2], [3, 4]], max_new_tokens=4)
    assert len(compiled.decoding.graphs) == 2


def test_states_need_no_room_so_that_one_graph_serves_every_length() -> None:
    model = family_example("rwkv7")
    compiled = model.compile(strict=True)
    for rows in ([[1, 2, 3]], [[4, 5] * 40]):
        same(compiled.generate(rows, max_new_tokens=4), model.generate(rows, max_new_tokens=4))
    assert len(compiled.decoding.graphs) == 1


RWKV = plugins.plugin("mi_core.families", "rwkv7").call("mi_family_examples")[0]


@pytest.mark.parametrize(
    ("config", "captured"),
    [
        (CONFIG, mi.HookSpec()),
        (CONFIG, WANTED),
        (CONFIG, mi.capture(RESID).at(batch=[2, 0])),
        (CONFIG, mi.capture(RESID).at(pos=[12])),  # a column of its own, when a row has ended
        (RWKV, mi.capture("blocks.*.mixer.hook_state")),
    ],
)
def test_rows_that_end_leave_the_others_as_they_were(config: dict[str, Any], captured: mi.HookSpec) -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    asked: dict[str, Any] = {"max_new_tokens": 12, "temperature": 20.0, "seed": 1}
    said = built(config).generate(rows, max_new_tokens=12, temperature=20.0, seed=1).new_tokens
    token = next(token for token in said[0][4:9] if token not in (*said[0][:4], *said[1], *said[2][:4]))
    model = built({**config, "eos_token_id": token})
    wanted = model.generate(rows, captured, **asked)
    assert wanted.ended[:2] == ["eos", "length"]
    compiled = model.compile(captured, strict=True)
    same(compiled.generate(rows, **asked), wanted)
    assert len(compiled.decoding.graphs) == 1


@given(SEEDS, st.floats(0.5, 5.0), st.integers(1, 20))
@settings(max_examples=5)
def test_tokens_are_drawn_as_without_graphs(seed: int, temperature: float, top_k: int) -> None:
    asked: dict[str, Any] = {"max_new_tokens": NEW, "temperature": temperature, "top_k": top_k, "seed": seed}
    same(small(11).compile(strict=True).generate([[1, 2], [3]], **asked), small(11).generate([[1, 2], [3]], **asked))


def test_memories_and_positions_are_gone_on_from() -> None:
    model, spec = small(11), WANTED + SPECS["noise"]
    compiled = model.compile(spec, strict=True)
    for prefix in ([[1, 2, 3], [4, 5, 6]], [[9, 8], [7, 6]]):
        memory = model.run(prefix, resumable=True).memory()
        same(
            compiled.generate([[7], [8]], memory=memory, max_new_tokens=5),
            model.generate([[7], [8]], spec, memory=memory, max_new_tokens=5),
        )
    positions = [[4, 5, 9]]
    same(
        compiled.generate([[1, 2, 3]], position_ids=positions, max_new_tokens=5),
        model.generate([[1, 2, 3]], spec, position_ids=positions, max_new_tokens=5),
    )


def test_captures_go_where_the_spec_wants_them() -> None:
    model, spec = small(11), mi.capture(RESID, dtype="bfloat16", device="host")
    made = model.compile(spec, strict=True).generate([[1, 2]], max_new_tokens=4)
    assert made[RESID].dtype is torch.bfloat16
    close(made[RESID].float(), model.generate([[1, 2]], spec, max_new_tokens=4)[RESID].float(), atol=1e-2)


class Doubler:
    """An insert that doubles the stream, and shows half of what it read."""

    reads = writes = (RESID,)
    sites = (Site("hook_half", ("batch", "pos", "d_model"), {"d_model": 16}),)

    def __call__(self, values: Mapping[str, torch.Tensor], tap: Any) -> Mapping[str, torch.Tensor]:
        return {RESID: 4 * tap("hook_half", values[RESID] / 2)}


def test_inserts_are_part_of_the_graph() -> None:
    model, spec = small(11), mi.insert(Doubler(), name="doubler") + mi.capture("doubler.hook_half")
    compiled = model.compile(spec, strict=True)
    same(
        compiled.generate([[1, 2, 3], [4]], max_new_tokens=5), model.generate([[1, 2, 3], [4]], spec, max_new_tokens=5)
    )
    assert replayed(compiled) == 4


def test_a_generation_inside_of_another_has_a_graph_of_its_own() -> None:
    model = small(11)
    compiled = model.compile(strict=True)
    inner: list[mi.Generation] = []

    def heard(row: int, text: str, token: int) -> None:
        if len(inner) < 4:
            inner.append(compiled.generate([[9, 8, 7]], max_new_tokens=NEW))

    made = compiled.generate([[1, 2, 3]], max_new_tokens=NEW, stream=heard)
    assert made.new_tokens == model.generate([[1, 2, 3]], max_new_tokens=NEW).new_tokens
    wanted = model.generate([[9, 8, 7]], max_new_tokens=NEW).new_tokens
    assert [each.new_tokens for each in inner] == [wanted] * 4
    assert 1 < len(compiled.decoding.graphs) < 4


def test_what_was_written_before_an_interrupt_is_kept_and_the_graph_serves_again() -> None:
    model = small(11)
    compiled = model.compile(mi.capture(RESID), strict=True)
    said: list[int] = []

    def heard(row: int, text: str, token: int) -> None:
        said.append(token)
        if len(said) == 4:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as interrupt:
        compiled.generate([[1, 2, 3]], max_new_tokens=NEW, stream=heard)
    wanted = model.generate([[1, 2, 3]], mi.capture(RESID), max_new_tokens=NEW)
    assert interrupt.value.partial.new_tokens == [wanted.new_tokens[0][:4]] == [said]
    close(interrupt.value.partial[RESID][0, :6], wanted[RESID][0, :6])
    same(compiled.generate([[1, 2, 3]], max_new_tokens=NEW), wanted)
    assert len(compiled.decoding.graphs) == 1


def applied(where: Any) -> mi.HookSpec:
    return mi.intervene(RESID, mi.Apply(lambda x: 2 * x).at(pos=where))


REFUSALS: dict[str, tuple[str, mi.HookSpec, dict[str, Any], str]] = {
    "functions": ("llama", applied(mi.GENERATED), {}, "may do anything"),
    "no cache": ("llama", mi.HookSpec(), {"cache": False}, "without a cache"),
    "experts": ("deepseek_v3", mi.HookSpec(), {}, "decides by the numbers"),
    "rotary scalings by length": ("phi3", mi.HookSpec(), {}, "decides by the numbers|depends on the length"),
    "weights of all earlier tokens": (
        "rwkv7",
        mi.capture("blocks.0.mixer.hook_effective_attn"),
        {},
        "a state does not tell them apart",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_a_graph_says_why_and_runs_as_it_is(name: str) -> None:
    family, spec, more, words = REFUSALS[name]
    model = small(14) if family == "llama" else family_example(family)
    asked: dict[str, Any] = {"max_new_tokens": 5, "stop_at_eos": False, **more}
    with pytest.raises(NotCompiled, match=words):
        model.compile(spec, strict=True).generate([[1, 2, 3]], **asked)
    compiled = model.compile(spec)
    with pytest.warns(UserWarning, match=words):
        first = compiled.generate([[1, 2, 3]], **asked)
    assert first.new_tokens == model.generate([[1, 2, 3]], spec, **asked).new_tokens
    if not more:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it says so once
            compiled.generate([[4, 5, 6]], **asked)
        assert "columns as they are" in compiled.explain()


def test_functions_that_reach_the_prompt_alone_are_no_obstacle() -> None:
    spec = applied(mi.PROMPT)
    compiled = small(14).compile(spec, strict=True)
    same(compiled.generate([[1, 2, 3]], max_new_tokens=5), small(14).generate([[1, 2, 3]], spec, max_new_tokens=5))
    assert replayed(compiled) > 0


def test_a_decision_that_no_tracer_sees_is_found_and_refused() -> None:
    spec = mi.insert(Sly(), name="sly")
    with pytest.warns(UserWarning, match="gives other"):
        made = small(15).compile(spec).generate([[1, 2, 3]], max_new_tokens=4)
    same(made, small(15).generate([[1, 2, 3]], spec, max_new_tokens=4))


def test_what_is_no_argument_is_refused_as_without_graphs() -> None:
    compiled = small(11).compile(strict=True)
    with pytest.raises(TypeError, match="max_tokens"):
        compiled.generate([[1]], max_tokens=3)
    with pytest.raises(InputError, match="temperature"):
        compiled.generate([[1]], max_new_tokens=3, temperature=-1.0)
