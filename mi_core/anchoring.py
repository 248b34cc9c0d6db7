"""Where selectors point in a generation: at the prompt, whose end never moves, or at what is generated behind it."""

from __future__ import annotations

from mi_core.errors import SelectorError
from mi_core.positions import Part
from mi_core.rows import RowText
from mi_core.selectors import Mask, Selector, chosen, in_text

__all__ = ["anchored", "may_come"]


def anchored(
    selector: Selector, prompt: int, count: int, text: RowText, row: int, *, dim: str, where: str
) -> list[int]:
    """The positions of one row of ``prompt`` tokens, ``count`` with what was generated.

    Negative ints, masks and texts are resolved on the prompt. Other ints are absolute: those that lie behind ``count``
    are left out, for they may be reached later. A slice without an end goes on into the new tokens.
    """
    if isinstance(selector, Part):
        return selector.within(prompt, count)
    if in_text(selector):
        return selector.resolve(text.cut(prompt), row)
    if isinstance(selector, slice):
        return sliced(selector, prompt, count)
    if isinstance(selector, Mask):
        return chosen(Mask(selector[:prompt]), prompt, dim=dim, where=where)
    wanted = (selector,) if isinstance(selector, int) else selector
    assert isinstance(wanted, tuple)
    found = [at if at >= 0 else chosen(at, prompt, dim=dim, where=f"the prompt of {where}")[0] for at in wanted]
    if len(set(found)) != len(found):
        raise SelectorError(f"{dim}={selector!r} selects a position twice at {where}.", dim=dim)
    return [at for at in found if at < count]


def sliced(selector: slice, prompt: int, count: int) -> list[int]:
    """A slice whose negative ends count from the end of the prompt."""
    start, stop = (end if end is None or end >= 0 else max(prompt + end, 0) for end in (selector.start, selector.stop))
    return list(range(start or 0, count if stop is None else min(stop, count), selector.step or 1))


def may_come(selector: Selector) -> bool:
    """Whether a selector that finds nothing may find something when more tokens have been generated."""
    if isinstance(selector, slice):
        start = selector.start or 0
        return start >= 0 and (selector.stop is None or selector.stop > start)
    return isinstance(selector, Part) or type(selector) in (int, tuple)
