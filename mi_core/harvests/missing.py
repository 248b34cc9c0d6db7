"""The shards of a harvest that are not there yet, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mi_core.errors import EmptyInput, HarvestMismatch
from mi_core.harvests.windows import Cursor, Cut, Cutter

__all__ = ["Missing"]


@dataclass(eq=False)
class Missing:
    """The shards that are not there, in order; what is there is compared with the corpus on the way."""

    cutter: Cutter
    there: Mapping[int, Cursor]
    finished: Mapping[int, Cursor] | None
    """Where each shard ended, if the harvest was finished before."""
    ends: list[Cursor] = field(default_factory=list)
    """Where the shards end that were passed."""

    def __iter__(self) -> Iterator[tuple[int, int, Cut]]:
        """Number, what lies before it of the corpus's total, and windows."""
        while True:
            number, before = len(self.ends), self.cutter.done
            if number in self.there:
                self.cutter.skip(self.there[number])
                self.ends.append(self.there[number])
            elif (cut := self.cutter.next()) is None:
                break
            elif self.finished is not None and self.finished.get(number) != cut.end:
                raise self._other("has other documents than those")
            elif any(end.ended and number > last for last, end in self.there.items()):
                raise self._other("has more documents than those")
            else:
                yield number, before, cut
                self.ends.append(cut.end)
        if not self.ends:
            raise EmptyInput(f"{self.cutter.name} has no document with a token, so there is nothing to harvest.")
        if self.there and max(self.there) >= len(self.ends):
            raise self._other("has fewer documents than those")

    def _other(self, what: str) -> HarvestMismatch:
        return HarvestMismatch(
            f"{self.cutter.name} {what} that were harvested into the folder. Give the same data, or another folder."
        )
