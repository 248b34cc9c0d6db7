"""Generation equals the loop that anybody would write over full runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_models import CONFIG, LAYOUTS, ROWS, SEEDS, close, laid_out, random, small, talking

import mi_core as mi
from mi_core.building import initialise_randomly
from mi_core.errors import ContextOverflow, InputError, SelectorError, ValueMismatch
from mi_core.protocols import Site

D_MODEL, N_HEADS, D_HEAD = 16, 4, 4
RESID, SCORES, PATTERN, Z = (
    "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.2.attn.hook_z",
)
CAPTURED = [RESID, SCORES, PATTERN, Z, "hook_embed", "unembed.hook_in", "hook_logits"]
WANTED = mi.capture(CAPTURED)
NEW = 4


@dataclass(frozen=True)
class Case:
    """An edit, and where it acts; on a row of p tokens, so far n, the same positions one by one."""

    point: str
    edit: mi.Intervention
    where: Mapping[str, Any]
    absolute: Callable[[int, int], Mapping[str, list[int]]]

    @property
    def spec(self) -> mi.HookSpec:
        return mi.intervene(self.point, self.edit.at(**self.where))

    def plain(self, prompt: int, now: int) -> mi.HookSpec:
        """For a run of the first ``now`` tokens."""
        places = {
            dim: [at for at in held if at < now or "pos" not in dim] for dim, held in self.absolute(prompt, now).items()
        }
        if not all(places.values()):
            return mi.HookSpec()
        return mi.intervene(self.point, self.edit.at(**places))


def everywhere(p: int, n: int) -> list[int]:
    return list(range(n))


ADD, ROW = mi.Add(random(D_MODEL), scale=3.0), mi.Add(random(1, 1, D_MODEL, seed=5), scale=2.0)
CASES = [
    Case(RESID, ADD, {"pos": slice(-1, None)}, lambda p, n: {"pos": [*range(p - 1, n)]}),
    Case(RESID, ADD, {"pos": mi.GENERATED}, lambda p, n: {"pos": [*range(p, n)]}),
    Case(RESID, ADD, {"pos": mi.GENERATED.first}, lambda p, n: {"pos": [p]}),
    Case(RESID, mi.Zero(), {"pos": mi.PROMPT}, lambda p, n: {"pos": [*range(p)]}),
    Case(RESID, mi.Scale(0.5), {"pos": mi.PROMPT.last}, lambda p, n: {"pos": [p - 1]}),
    Case(RESID, ADD, {"pos": -1}, lambda p, n: {"pos": [p - 1]}),
    Case(RESID, ADD, {"pos": 0}, lambda p, n: {"pos": [0]}),
    Case(RESID, ADD, {"pos": 7}, lambda p, n: {"pos": [7]}),
    Case(RESID, ADD, {"pos": [7, 0]}, lambda p, n: {"pos": [7, 0]}),
    Case(RESID, ROW, {"pos": slice(0, None, 2)}, lambda p, n: {"pos": [*range(0, n, 2)]}),
    Case(RESID, ADD, {"pos": slice(None, -1)}, lambda p, n: {"pos": [*range(p - 1)]}),
    Case(RESID, ADD, {"pos": slice(2, 7)}, lambda p, n: {"pos": [*range(2, 7)]}),
    Case(RESID, mi.Apply(lambda x: x.tanh()), {}, lambda p, n: {"pos": everywhere(p, n)}),
    Case(
        RESID,
        mi.ProjectOut(random(D_MODEL)),
        {"pos": slice(-2, None)},
        lambda p, n: {"pos": [*range(max(p - 2, 0), n)]},
    ),
    Case(Z, mi.Zero(), {"head": 1}, lambda p, n: {"head": [1], "pos": everywhere(p, n)}),
    Case(
        Z,
        mi.Replace(random(2, D_HEAD, seed=2)),
        {"head": [0, 3], "pos": mi.GENERATED},
        lambda p, n: {"head": [0, 3], "pos": [*range(p, n)]},
    ),
    Case("hook_logits", mi.Add(random(61, seed=4)), {"pos": mi.GENERATED}, lambda p, n: {"pos": [*range(p, n)]}),
    Case(
        SCORES,
        mi.Knockout(),
        {"query_pos": mi.GENERATED, "key_pos": 0},
        lambda p, n: {"query_pos": [*range(p, n)], "key_pos": [0]},
    ),
    Case(
        SCORES,
        mi.Knockout(),
        {"query_pos": slice(-1, None), "key_pos": mi.GENERATED.first},
        lambda p, n: {"query_pos": [*range(p - 1, n)], "key_pos": [p]},
    ),
    Case(
        SCORES,
        mi.Knockout(),
        {"head": 2, "key_pos": -1},
        lambda p, n: {"head": [2], "query_pos": everywhere(p, n), "key_pos": [p - 1]},
    ),
    Case(
        PATTERN,
        mi.Reweight(scale=3.0),
        {"query_pos": slice(-1, None), "key_pos": 0},
        lambda p, n: {"query_pos": [*range(p - 1, n)], "key_pos": [0]},
    ),
    Case(
        PATTERN,
        mi.Reweight(scale=3.0),
        {"query_pos": -1, "key_pos": [0]},
        lambda p, n: {"query_pos": [p - 1], "key_pos": [0]},
    ),
]


def by_hand(ids: list[int], case: Case | None, new: int = NEW) -> mi.Run:
    """Greedy tokens by a loop over full runs, and a run over all of them."""
    ids, prompt = list(ids), len(ids)

    def spec() -> mi.HookSpec:
        return mi.HookSpec() if case is None else case.plain(prompt, len(ids))

    for _ in range(new):
        ids.append(int(small().run(ids, spec(), logits="last").logits[0, 0].argmax()))
    return small().run(ids, spec() + WANTED)


@pytest.mark.parametrize("case", [None, *CASES], ids=lambda case: "no edit" if case is None else repr(case.spec))
@settings(max_examples=2)
@given(rows=ROWS, layout=LAYOUTS, seed=SEEDS, cache=st.booleans())
def test_a_generation_is_the_loop_over_full_runs_row_by_row(
    rows: list[list[int]], layout: str, seed: int, case: Case | None, cache: bool
) -> None:
    assume(case is None or case.where.get("pos") != slice(None, -1) or max(map(len, rows)) > 1)
    ids, mask = laid_out(rows, layout, seed)
    spec = WANTED if case is None else case.spec + WANTED
    made = small().generate(ids, spec, attention_mask=mask, max_new_tokens=NEW, cache=cache)
    assert made.prompt_length.tolist() == [len(row) for row in rows]
    for number, row in enumerate(rows):
        wanted = by_hand(row, case)
        count, end = len(row), len(row) + NEW
        assert made.tokens[number, :end].tolist() == wanted.tokens[0].tolist()
        assert made.new_tokens[number] == wanted.tokens[0, count:].tolist()
        close(made.logits[number], wanted.logits[0, count - 1 : -1])
        for name in CAPTURED:
            columns = (slice(None), slice(end), slice(end)) if name in (SCORES, PATTERN) else (slice(end),)
            close(made[name][number][columns], wanted[name][0])
    pads = ~made.mask
    assert not made[RESID][pads].any()
    assert not made[PATTERN].movedim(1, -1)[pads].any()


SELECTORS = [0, 5, -1, [6, 1], slice(-1, None), slice(None, None, 2), slice(1, 6), mi.PROMPT, mi.GENERATED]


@settings(max_examples=8)  # each is many runs
@given(ROWS, st.sampled_from(SELECTORS), st.sampled_from([*SELECTORS, None]), st.booleans())
def test_captured_parts_are_the_parts_of_whole_captures(rows: list[list[int]], pos: Any, key: Any, cache: bool) -> None:
    ids, mask = laid_out(rows, "right")
    edges = {"query_pos": pos, "head": [0, 2]} | ({} if key is None else {"key_pos": key})
    part = mi.capture(RESID).at(pos=pos) + mi.capture(PATTERN).at(**edges)
    part += mi.capture(Z, before=True).at(pos=pos, batch=[len(rows) - 1])
    made = small().generate(ids, part, attention_mask=mask, max_new_tokens=NEW, cache=cache)
    whole = small().generate(
        ids, WANTED + mi.capture(Z, before=True), attention_mask=mask, max_new_tokens=NEW, cache=cache
    )
    close(made[RESID], whole.at(RESID, pos=pos))
    close(made.at(RESID, pos=pos), whole.at(RESID, pos=pos))
    close(made[PATTERN], whole.at(PATTERN, **edges))
    last = small().generate(ids, WANTED, attention_mask=mask, max_new_tokens=NEW).at(Z, pos=pos, batch=[len(rows) - 1])
    close(made.before[Z], last)


@settings(max_examples=8)  # each is many runs
@given(ROWS, st.integers(0, 1000), st.sampled_from([slice(-1, None), 3, mi.GENERATED, mi.PROMPT]))
def test_noise_and_prompt_values_do_not_depend_on_the_cache(rows: list[list[int]], seed: int, pos: Any) -> None:
    ids, mask = laid_out(rows, "right")
    other = small().run(ids, mi.capture(RESID), attention_mask=mask)
    edits = mi.intervene(RESID, mi.Noise(2.0, seed).at(pos=pos)) + mi.intervene(SCORES, mi.Noise(0.5, seed))
    edits += mi.intervene(RESID, mi.Interpolate(other, 0.5).at(pos=mi.PROMPT))
    if len(rows) > 1:
        edits += mi.intervene(Z, mi.Mean().at(pos=0))
    made, again = (
        small().generate(ids, edits + WANTED, attention_mask=mask, max_new_tokens=NEW, cache=cache)
        for cache in (True, False)
    )
    assert made.new_tokens == again.new_tokens
    for name in CAPTURED:
        close(made[name], again[name])


def test_values_of_the_whole_prompt_are_fitted_as_in_a_run() -> None:
    ids, mask = laid_out([[1, 2, 3], [4, 5]], "left")
    for value, where in ((random(2, 3, D_MODEL), mi.PROMPT), (random(2, 1, D_MODEL), -1), (random(2, D_MODEL), -1)):
        edit = mi.intervene(RESID, mi.Replace(value).at(pos=where))
        run = small().run(ids, edit, attention_mask=mask, logits="last")
        for cache in (True, False):
            made = small().generate(ids, edit, attention_mask=mask, max_new_tokens=3, cache=cache)
            close(made.logits[:, 0], run.logits[:, 0])


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}])
def test_rotary_scalings_that_depend_on_the_length_run_rows_again(rope: dict[str, Any]) -> None:
    model = built(max_position_embeddings=8, rope_scaling=rope)
    rows = [[1, 2, 3, 4, 5], [6, 7]]
    made = model.generate(rows, mi.capture(RESID), max_new_tokens=6)
    again = model.generate(rows, mi.capture(RESID), max_new_tokens=6, cache=False)
    assert made.new_tokens == again.new_tokens
    close(made[RESID], again[RESID])
    close(made[RESID], model.run(made.tokens, mi.capture(RESID), attention_mask=made.mask)[RESID])
    assert any("again from the first token" in note for note in made.receipt.notes) is (rope["rope_type"] == "dynamic")


def built(**changes: Any) -> mi.Model:
    """The small model with another config; the cached one takes hashable values only."""
    model = mi.build({**CONFIG, **changes}, trainable=False, device="cpu")
    initialise_randomly(model, 0)
    return model


def test_a_position_that_was_never_reached_is_a_line_in_the_receipt() -> None:
    spec = mi.intervene(RESID, mi.Zero().at(pos=40)) + mi.capture(Z).at(pos=[1, 41])
    made = small().generate([[1, 2], [3]], spec, max_new_tokens=2)
    assert made[Z].shape == (2, 1, N_HEADS, D_HEAD)
    assert [note.split(": ")[1][:9] for note in made.receipt.notes] == ["pos 40 wa", "pos 41 wa"]
    assert made.receipt.fired == (Z,)
    assert small().generate([[1]], mi.capture(Z).at(pos=9), max_new_tokens=1)[Z].shape == (1, 0, N_HEADS, D_HEAD)


def test_only_what_is_captured_makes_the_last_token_run(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[tuple[int, int]] = []
    block = small().backend.blocks[0]
    forward = block.forward  # type: ignore[attr-defined]

    def counted(stream: Any, batch: Any, *rest: Any) -> Any:
        widths.append(tuple(stream.resid.shape[:2]))
        return forward(stream, batch, *rest)

    monkeypatch.setattr(block, "forward", counted)
    rows = [[1, 2, 3], [4]]
    small().generate(rows, max_new_tokens=3)
    assert widths == [(2, 3), (2, 1), (2, 1)]
    widths.clear()
    small().generate(rows, mi.capture(RESID), max_new_tokens=3)
    assert widths == [(2, 3), (2, 1), (2, 1), (2, 1)]
    widths.clear()
    small().generate(rows, mi.capture(RESID), max_new_tokens=3, cache=False)
    assert widths == [(2, 3), (2, 4), (2, 5), (2, 6)]


def ends_early(rows: list[list[int]], new: int) -> tuple[mi.Model, list[int]]:
    """A model for which the second token that the first row says ends a text."""
    said = small().generate(rows, max_new_tokens=new).new_tokens
    token = next(token for token in said[0] if token != said[0][0])
    counts = [row.index(token) + 1 if token in row else new for row in said]
    return built(eos_token_id=[60, token]), counts


@pytest.mark.parametrize("cache", [True, False])
def test_a_row_that_ends_leaves_the_others_as_they_were(cache: bool) -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    model, counts = ends_early(rows, 6)
    assert min(counts) < max(counts)
    made = model.generate(rows, mi.capture(RESID), max_new_tokens=6, cache=cache)
    free = small().generate(rows, mi.capture(RESID), max_new_tokens=6)
    on = model.generate(rows, max_new_tokens=6, stop_at_eos=False, cache=cache)
    assert on.new_tokens == free.new_tokens
    assert made.ended == ["eos" if count < 6 else "length" for count in counts]
    for row, count in enumerate(counts):
        assert made.new_tokens[row] == free.new_tokens[row][:count]
        close(made[RESID][row, : len(rows[row]) + count], free[RESID][row, : len(rows[row]) + count])
        close(made.logits[row, :count], free.logits[row, :count])
        assert not made.logits[row, count:].any()


@pytest.mark.parametrize("cache", [True, False])
def test_a_mean_over_the_rows_of_the_prompt_counts_rows_that_have_ended(cache: bool) -> None:
    rows = [[1, 2, 3], [4, 9], [5, 6]]
    mean = mi.intervene(RESID, mi.Mean().at(pos=0))
    drawn: dict[str, Any] = {"max_new_tokens": 6, "temperature": 5.0, "seed": 1}
    edited = small().generate(rows, mean, **drawn)
    model = built(eos_token_id=edited.new_tokens[0][1])
    made = model.generate(rows, mean + mi.capture(RESID), cache=cache, **drawn)
    assert "eos" in made.ended
    assert "length" in made.ended
    for row, new in enumerate(made.new_tokens):
        close(made.logits[row, : len(new)], edited.logits[row, : len(new)])
    first = small().run([row[:1] for row in rows], mi.capture(RESID))[RESID]
    close(made[RESID][:, :1], first.mean(0, keepdim=True).expand(3, 1, D_MODEL))


class Doubler:
    """An insert that doubles the stream, and shows half of what it read."""

    reads = writes = (RESID,)
    sites = (Site("hook_half", ("batch", "pos", "d_model"), {"d_model": D_MODEL}),)

    def __call__(self, values: Mapping[str, torch.Tensor], tap: Any) -> Mapping[str, torch.Tensor]:
        return {RESID: 4 * tap("hook_half", values[RESID] / 2)}


@pytest.mark.parametrize("cache", [True, False])
def test_an_insert_acts_and_is_captured_at_every_token(cache: bool) -> None:
    spec = mi.insert(Doubler(), RESID) + mi.capture(f"{RESID}.hook_half")
    made = small().generate([[1, 2, 3], [4]], spec, max_new_tokens=3, cache=cache)
    run = small().run(made.tokens, spec, attention_mask=made.mask)
    close(made[f"{RESID}.hook_half"], run[f"{RESID}.hook_half"])
    assert made.new_tokens != small().generate([[1, 2, 3], [4]], max_new_tokens=3).new_tokens


def test_positions_that_were_given_go_on_from_the_last() -> None:
    ids, positions = [[1, 2, 3]], [[4, 5, 9]]
    made = small().generate(ids, mi.capture(RESID), position_ids=positions, max_new_tokens=3)
    run = small().run(made.tokens, mi.capture(RESID), position_ids=[[4, 5, 9, 10, 11, 12]])
    close(made[RESID], run[RESID])
    with pytest.raises(ContextOverflow, match="so 54 new tokens fit, not 55"):
        small().generate(ids, position_ids=positions, max_new_tokens=55)
    assert len(small().generate(ids, position_ids=positions, max_new_tokens=54).new_tokens[0]) == 54


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (mi.Add(random(1, 5, D_MODEL)), "the same at every position"),
        (mi.Replace(random(5, D_MODEL)).at(pos=slice(0, None)), "the same at every position"),
        (mi.Mean(), "not there yet"),
    ],
)
def test_values_that_differ_by_position_are_refused_where_the_number_of_positions_is_open(
    edit: mi.Intervention, words: str
) -> None:
    with pytest.raises(ValueMismatch, match=words):
        small().generate([[1, 2, 3]], mi.intervene(RESID, edit), max_new_tokens=2)
    run = small().run([[1, 2, 3]], mi.capture(RESID))
    with pytest.raises(ValueMismatch, match="from a run, by position"):
        small().generate([[1, 2, 3]], mi.intervene(RESID, mi.Replace(run)), max_new_tokens=2)


def test_the_mean_of_a_run_over_its_positions_is_the_same_at_every_new_token() -> None:
    run = small().run([[1, 2, 3], [4, 5, 6]], mi.capture(RESID))
    mean = mi.intervene(RESID, mi.Mean(run, over=("batch", "pos")))
    made = small().generate([[7, 8]], mean + mi.capture(RESID), max_new_tokens=3)
    close(made[RESID], run[RESID].mean((0, 1)).expand(1, 5, D_MODEL))


def test_selectors_that_cannot_be_resolved_on_the_prompt_are_refused() -> None:
    for pos, words in (
        (-4, "the prompt of"),
        (slice(3, 3), "no token"),
        ([1, -2], "twice"),
        ([True] * 4, "mask"),
        (mi.GENERATED.last, "which token is the last"),
    ):
        with pytest.raises(SelectorError, match=words):
            small().generate([[1, 2, 3]], mi.capture(RESID).at(pos=pos), max_new_tokens=3)
    with pytest.raises(SelectorError, match=r"GENERATED is what model\.generate writes"):
        small().run([[1, 2, 3]], mi.capture(RESID).at(pos=mi.GENERATED))
    run = small().run([[1, 2, 3]], mi.capture(RESID).at(pos=mi.PROMPT))
    assert run[RESID].shape == (1, 3, D_MODEL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0},
        {"seed": "x"},
        {"seed": [1, 2]},
        {"stop": [""]},
        {"stream": 3},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        talking().generate("the cat", **{"max_new_tokens": 2, **wrong})


def test_what_does_not_fit_the_context_is_refused_before_anything_runs() -> None:
    with pytest.raises(ContextOverflow, match="so 61 new tokens fit, not 62"):
        small().generate([[1, 2], [1, 2, 3]], max_new_tokens=62)
    assert len(small().generate([[1, 2, 3]], mi.capture(RESID), max_new_tokens=61).new_tokens[0]) == 61
