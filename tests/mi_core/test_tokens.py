from __future__ import annotations

from small_models import small, talking


def test_top_tokens_show_their_text_and_share() -> None:
    top = talking().run("The capital").top(2)
    assert len(top.texts[0]) == 2  # type: ignore[arg-type]
    assert repr(top).count("%") == 2
    assert talking().tokenizer is not None
    assert top.texts[0][0] == talking().tokenizer.text(int(top.ids[0, 0]))  # type: ignore[index, union-attr]


def test_top_tokens_of_ids_are_ids() -> None:
    top = small().run([[1, 2], [3]]).top(3, pos=0)
    assert [len(row) for row in top.texts] == [3, 3]  # type: ignore[arg-type]
    assert top.texts[0][0] == f"<{int(top.ids[0, 0])}>"  # type: ignore[index]
    assert len(repr(top).splitlines()) == 2
    assert small().run([[1, 2], [3]]).top(99).ids.shape == (2, 61)
    assert repr(small().run([[1, 2]]).top(2, pos=None)) == "TopTokens([1, 2, 2])"
