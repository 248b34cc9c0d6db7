"""Answers as token ids: one for all rows, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

import mi_core as mi
from mi_analyses.logit_lens import token_id
from mi_core.errors import SelectorError

__all__ = ["answer_rows"]


def answer_rows(model: mi.Model, answer: str | int | Sequence[str | int], rows: int) -> list[int]:
    """The id of each row's answer.

    Raises:
        NotSingleToken: a text is several tokens.
        TokenOutOfRange: an id is not in the vocabulary.
        SelectorError: neither one answer nor one for each row.
    """
    given = [answer] if isinstance(answer, str | int) else list(answer)
    if len(given) not in (1, rows):
        raise SelectorError(
            f"{len(given)} answers for {rows} rows: give one for all, or one for each.", answers=len(given), rows=rows
        )
    ids = [token_id(model, token) for token in given]
    return ids * rows if len(ids) == 1 else ids
