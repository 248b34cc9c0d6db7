from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, small, talking

import mi_core as mi
from mi_core.errors import ChangedInPlace, EmptyInput, MiError, MissingActivation, SelectorError, UnknownPoint

RESID, Z, SCORES, PATTERN = (
    "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
)
EVERY = "blocks.*.hook_resid_post"
EVERYTHING = mi.capture(["*", "blocks.*.attn.hook_result", "blocks.*.attn.hook_v_per_head"])


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([None, 1, 5, 100]))
def test_a_batch_in_any_layout_and_any_chunks_is_its_rows_alone(
    rows: list[list[int]], layout: str, seed: int, limit: int | None
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    run = small().run(ids, EVERYTHING, attention_mask=mask, batch_tokens=limit)
    assert torch.equal(run.tokens, ids * mask)
    assert torch.equal(run.mask, mask)
    assert not run.logits[~mask].any()
    for number, row in enumerate(rows):
        alone = small().run([row], EVERYTHING)
        own = mask[number]
        close(run.logits[number][own], alone.logits[0])
        close(run.token_losses[number][own], alone.token_losses[0])
        assert run.positions[number][own].tolist() == list(range(len(row)))
        assert list(run) == list(alone)
        for name, value in run.items():
            seen, wanted = value[number], alone[name][0]
            if value.ndim == 4 and "key_pos" in run._points.find(name).site.dims:
                close(seen[:, own][:, :, own], wanted)
                seen = seen.masked_fill(own[:, None] & own, 0.0)
                assert not seen.any()
            else:
                close(seen[own], wanted)
                assert not seen[~own].any()


@given(
    ROWS, LAYOUTS, SEEDS, st.sampled_from([{"head": 1}, {"d_head": [0, 3]}, {"batch": 0}, {"batch": [0], "head": [2]}])
)
def test_reading_a_part_is_capturing_that_part(
    rows: list[list[int]], layout: str, seed: int, at: dict[str, Any]
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    full = small().run(ids, mi.capture(Z), attention_mask=mask)
    part = small().run(ids, mi.capture(Z).at(**at), attention_mask=mask)
    assert torch.equal(full.at(Z, **at), part[Z])
    assert torch.equal(part.at(Z), part[Z])
    more = small().run(ids, mi.capture(Z).at(pos=-1), attention_mask=mask)
    close(more.at(Z, **at), full.at(Z, pos=-1, **at))


def test_an_unknown_name_is_not_in_a_run_and_cannot_be_read() -> None:
    run = small().run([[1, 2]], mi.capture(EVERY))
    assert "blocks.1.resid_post" in run
    assert Z not in run
    assert "blocks.1.hook_z" not in run
    assert 3 not in run
    assert list(run) == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    assert len(run) == 3
    assert run["blocks.1.resid_post"] is run[RESID]
    with pytest.raises(MissingActivation, match=r"did not capture 'blocks.1.attn.hook_z'; it holds .*mi.capture\('"):
        run["blocks.1.attn.z"]
    with pytest.raises(MissingActivation, match="holds no activations"):
        small().run([[1]])[RESID]
    with pytest.raises(UnknownPoint, match="Did you mean"):
        run["blocks.1.hook_resid_pots"]
    assert run.get(Z) is None
    assert run == run
    assert run != small().run([[1, 2]], mi.capture(EVERY))


def test_stack_labels_its_layers() -> None:
    run = small().run([[1, 2], [3, 4]], mi.capture(EVERY).at(layer=[2, 0]))
    assert run.layers("hook_resid_post") == run.layers("resid_post") == (0, 2)
    assert torch.equal(run.stack("resid_post"), torch.stack([run["blocks.0.resid_post"], run["blocks.2.resid_post"]]))
    with pytest.raises(MissingActivation, match=r"'attn.hook_z' in no layer.*mi.capture\('blocks\.\*\.attn.hook_z'\)"):
        run.stack("attn.hook_z")
    uneven = mi.capture(RESID).at(pos=-1) + mi.capture("blocks.0.hook_resid_post")
    with pytest.raises(SelectorError, match="different shapes"):
        small().run([[1, 2]], uneven).stack("resid_post")


def test_values_before_interventions_are_apart() -> None:
    spec = mi.intervene(RESID, mi.Zero()) + mi.capture(RESID, before=True)
    run = small().run([[1, 2]], spec)
    assert RESID not in run
    assert list(run.before) == [RESID]
    assert len(run.before) == 1
    close(run.before["blocks.1.resid_post"], small().run([[1, 2]], mi.capture(RESID))[RESID])
    with pytest.raises(MissingActivation, match="did not capture"):
        run.before[Z]


def test_a_point_is_captured_in_one_way() -> None:
    small().run([[1, 2]], mi.capture(RESID) + mi.capture(EVERY))
    with pytest.raises(SelectorError, match="captured twice"):
        small().run([[1, 2]], mi.capture(RESID) + mi.capture(EVERY).at(pos=-1))


def test_a_run_whose_activation_was_edited_answers_no_more() -> None:
    for ids in ([[1, 2]], [[1, 2], [3]]):
        run = small().run(ids, mi.capture(RESID))
        run.at(RESID, pos=-1)
        run[RESID][0, 0] = 0.0
        with pytest.raises(ChangedInPlace, match="clone"):
            run.at(RESID, pos=-1)


@given(ROWS, LAYOUTS, SEEDS)
def test_losses_are_cross_entropies_of_what_came(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    run = small().run(ids, attention_mask=mask)
    wanted = [
        torch.nn.functional.cross_entropy(
            run.logits[i][mask[i]][:-1], torch.tensor(row[1:], dtype=torch.long), reduction="none"
        )
        for i, row in enumerate(rows)
    ]
    for i, losses in enumerate(wanted):
        close(run.token_losses[i][mask[i]], torch.cat([torch.zeros(1), losses]))
    if sum(map(len, wanted)):
        close(run.loss, torch.cat(wanted).mean())
    else:
        with pytest.raises(EmptyInput, match="second token"):
            _ = run.loss


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda run: run.logits, "logits=None"),
        (lambda run: run.last_logits, "logits=None"),
        (lambda run: run.loss, 'logits="all"'),
        (lambda run: run.token_losses, 'logits="all"'),
        (lambda run: run.top(), "logits=None"),
        (lambda run: run.memory(), "resumable=True"),
        (lambda run: run.grad(lambda x: x[:, 0], RESID), "logits=None"),
    ],
)
def test_what_a_run_does_not_have_names_how_to_get_it(ask: Callable[[mi.Run], Any], said: str) -> None:
    with pytest.raises(MissingActivation, match=said):
        ask(small().run([[1, 2]], mi.capture(RESID), logits=None))


@given(ROWS, LAYOUTS, SEEDS, st.integers(1, 4))
def test_the_most_probable_tokens_are_the_largest_logits(rows: list[list[int]], layout: str, seed: int, k: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    run = small().run(ids, attention_mask=mask)
    last = small().run(ids, attention_mask=mask, logits="last")
    assert last.logits.shape == (len(rows), 1, 61)
    close(last.logits[:, 0], run.last_logits)
    for number in range(len(rows)):
        probability = run.logits[number][mask[number]][-1].softmax(-1)
        assert run.top(k).ids[number, 0] == last.top(k).ids[number, 0] == probability.argmax()
        close(run.top(k).probability[number], probability.topk(k).values)
        close(run.top(k, pos=0).probability[number], run.logits[number][mask[number]][0].softmax(-1).topk(k).values)
    assert run.top(k, pos=None).ids.shape == (*ids.shape, k)
    with pytest.raises(SelectorError):
        run.top(pos=9)


def test_a_run_moves_between_dtypes() -> None:
    run = small().run([[1, 2], [3]], mi.capture(RESID), resumable=True)
    half = run.to(torch.bfloat16)
    assert half[RESID].dtype == half.logits.dtype == torch.bfloat16
    assert torch.equal(half.tokens, run.tokens)
    same = run.to("cpu")
    assert torch.equal(same[RESID], run[RESID])
    assert same.memory().length.tolist() == [2, 1]
    assert "2 x 2 tokens, 1 activations" in repr(run)


def test_text_tokens_show_the_bos() -> None:
    run = talking().run(["The capital", "France"])
    assert run.text_tokens[0][0] == "<s>"
    assert "".join(run.text_tokens[0][1:]) == "The capital"
    assert run.receipt.bos == ("<s>", "<s>")
    assert run.text_of(int(run.tokens[0, 0])) == "<s>"
    assert small().run([[1, 2]]).text_tokens == [["<1>", "<2>"]]


def test_every_error_of_a_run_is_ours() -> None:
    for ask in ("nothing", "blocks.9.hook_z"):
        with pytest.raises(MiError):
            small().run([[1]])[ask]
