"""What a generation holds, and how it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import close, small, talking

import mi_core as mi
from mi_core.errors import MissingActivation, NoTokenizer

D_MODEL = 16
RESID, Z = "blocks.1.hook_resid_post", "blocks.2.attn.hook_z"


def test_spans_are_found_in_the_prompt_alone() -> None:
    model = talking()
    spec = mi.capture(RESID).at(pos=mi.Span("cat")) + mi.capture(Z)
    made = model.generate("the cat", spec, max_new_tokens=3)
    assert made[RESID].shape[1] == len(model.run("the cat", spec).at(RESID, pos=mi.Span("cat"))[0])
    close(
        made.at(Z, pos=mi.Span("cat")),
        made[Z][:, made.prompt_length[0] - made[RESID].shape[1] :][:, : made[RESID].shape[1]],
    )


def test_ids_without_a_tokenizer_have_no_text_and_no_stop_strings() -> None:
    made = small().generate([[1, 2]], max_new_tokens=2)
    with pytest.raises(NoTokenizer):
        _ = made.text
    with pytest.raises(NoTokenizer):
        small().generate([[1, 2]], max_new_tokens=2, stop="x")


def test_ctrl_c_keeps_what_was_generated() -> None:
    def stop(row: int, text: str, token: int) -> None:
        said.append(token)
        if len(said) == 3:
            raise KeyboardInterrupt

    said: list[int] = []
    with pytest.raises(mi.GenerationInterrupted, match="after 3 new tokens") as caught:
        small().generate([[1, 2]], mi.capture(RESID), max_new_tokens=9, stream=stop)
    partial = caught.value.partial
    assert partial.new_tokens == [said]
    assert partial.ended == ["interrupted"]
    whole = small().generate([[1, 2]], mi.capture(RESID), max_new_tokens=3)
    close(partial[RESID][:, :-1], whole[RESID][:, :-1])
    assert not partial[RESID][:, -1].any()
    assert "zeros" in partial.receipt.notes[-1]
    close(partial.logits, whole.logits)


def test_a_generation_reads_like_a_run(tmp_path: Path) -> None:
    made = talking().generate(["the cat", "a dog sat"], mi.capture("blocks.*.hook_resid_post"), max_new_tokens=3)
    assert made.stack("hook_resid_post").shape == (3, 2, made.tokens.shape[1], D_MODEL)
    assert [len(row) for row in made.text_tokens] == made.mask.sum(1).tolist()
    close(made.at(RESID, pos=-1), made.at(RESID, pos=mi.PROMPT.last)[:, 0])
    close(made.at(RESID, pos=mi.GENERATED.last)[:, 0], made[RESID][range(2), made.mask.sum(1) - 1])
    assert made.top(1).ids[:, 0].tolist() == [row[0] for row in made.new_tokens]
    assert made.top(1, pos=None).ids[..., 0].tolist() == made.new_tokens
    for what in (lambda: made.loss, lambda: made.last_logits, lambda: made.compare(made), lambda: made.top(1, pos=0)):
        with pytest.raises(MissingActivation):
            what()
    half = made.to(torch.float64)
    assert half.text == made.text
    assert half.logits.dtype == half[RESID].dtype == torch.float64
    made.save(tmp_path / "made")
    read = mi.Run.load(tmp_path / "made")
    close(read.at(RESID, pos=mi.GENERATED), made.at(RESID, pos=mi.GENERATED))
    close(read.at(RESID, pos=-1), made.at(RESID, pos=-1))
