"""The folder of a harvest: an index that says what it is of, and the shards that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mi_core.errors import CorruptShard, HarvestError, HarvestMismatch
from mi_core.harvests.atomic import committed
from mi_core.harvests.shards import Shard, shard_name
from mi_core.harvests.windows import Cursor
from mi_core.sweep_store import digest

__all__ = ["INDEX", "Folder", "numbered", "read_index"]

FORMAT: Final = "mi-core harvest 1"
INDEX: Final = "index.json"


@dataclass(frozen=True, eq=False)
class Folder:
    """Where a harvest with some settings is written."""

    path: Path
    settings: Mapping[str, Any]
    """What the numbers depend on; two harvests into one folder have the same."""
    about: Mapping[str, Any]
    """What else the index says: provenance, and what was asked for in words."""

    @property
    def fingerprint(self) -> str:
        """A hash of the settings."""
        return digest(dict(self.settings))

    def finished(self) -> dict[int, Cursor] | None:
        """Where each shard ends, of a harvest that was finished before."""
        index = read_index(self.path)
        ends = [Cursor(**shard["end"]) for shard in index.get("shards", ())]
        return dict(enumerate(ends)) if index["complete"] else None

    def begin(self) -> None:
        """Make the folder that of this harvest, or find that it is.

        Raises:
            HarvestMismatch: it is that of another one, or has files that no harvest wrote; the message says which.
        """
        before = read_index(self.path) if (self.path / INDEX).exists() else None
        if before is None:
            self._refuse_strangers()
        elif before["settings"] != self.settings and (before["complete"] or any(numbered(self.path))):
            raise differing(self, before)
        if before is None or before["settings"] != self.settings:  # where nothing was written, nothing binds
            self.write({"complete": False})
        for left in self.path.glob(".*.part"):  # by a process that was killed
            left.unlink()

    def _refuse_strangers(self) -> None:
        """Without an index, files with the names of shards are either this harvest's or not for us to replace."""
        for _, path in numbered(self.path):
            try:
                Shard.open(path)
            except CorruptShard as error:
                raise HarvestMismatch(
                    f"{str(self.path)!r} has no {INDEX}, but {path.name!r}, which is no shard that can be read and "
                    "would be replaced: remove it, or use another folder.",
                    folder=self.path,
                ) from error

    def finish(self, ends: Sequence[Cursor], end: Cursor) -> None:
        """Write the index of a harvest that has everything: shards that end there and there.

        Raises:
            HarvestMismatch: another process read other documents.
        """
        there = [Shard.open(self.path / shard_name(number)) for number in range(len(ends))]
        for shard, wanted in zip(there, ends, strict=True):
            if shard.end != wanted:
                raise HarvestMismatch(
                    f"{str(shard.path)!r} was made of other documents than those of this process: all must be given "
                    "the same data in the same order. Remove it, and harvest again.",
                    path=shard.path,
                )
        listed: list[dict[str, Any]] = [
            {
                "file": shard.path.name,
                "rows": shard.rows,
                "tokens": len(shard.windows.tokens),
                "bytes": shard.path.stat().st_size,
                "end": asdict(shard.end),
            }
            for shard in there
        ]
        totals = {name: sum(shard[name] for shard in listed) for name in ("rows", "tokens", "bytes")}
        self.write({"complete": True, **totals, "end": asdict(end), "shards": listed})

    def write(self, found: Mapping[str, Any]) -> None:
        """Write the index."""
        data = {"format": FORMAT, **found, "settings": self.settings, **self.about}
        with committed(self.path / INDEX) as part:
            part.write_text(json.dumps(data, indent=1), encoding="utf-8")

    def there(self) -> dict[int, Cursor]:
        """The shards that need not be made again, each with how far it goes; what cannot be read is made again.

        Raises:
            HarvestMismatch: one was made with other settings.
        """
        found = {}
        for number, path in numbered(self.path):
            try:
                shard = Shard.open(path)
            except CorruptShard:
                continue
            if shard.harvest != self.fingerprint:
                raise HarvestMismatch(f"{str(path)!r} is of another harvest: remove it, or use another folder.")
            found[number] = shard.end
        return found


def numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """The files of shards, with their numbers."""
    for path in sorted(folder.glob("shard-*.safetensors")):
        number = path.stem.removeprefix("shard-")
        if number.isdigit():
            yield int(number), path


def read_index(folder: Path) -> dict[str, Any]:
    """What a harvest says of itself.

    Raises:
        HarvestError: there is none in the folder.
    """
    try:
        data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise HarvestError(f"there is no harvest in {str(folder)!r}: {error.strerror}.", folder=folder) from None
    except ValueError as error:
        raise HarvestError(
            f"{str(folder / INDEX)!r} is no index of a harvest: {error}. If it was one, remove it and harvest again in "
            "the same way: shards that are whole are kept.",
            folder=folder,
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        kind = data.get("format") if isinstance(data, dict) else None
        raise HarvestError(
            f"{str(folder / INDEX)!r} is no index of a harvest that this version reads: its format is {kind!r}, not "
            f"{FORMAT!r}.",
            folder=folder,
        )
    return data


def differing(now: Folder, before: Mapping[str, Any]) -> HarvestMismatch:
    """The error of a folder that another harvest has, with what differs."""
    there, here = before["settings"], now.settings
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    # a spec is compared by its hash, and shown as it would be written
    values = {name: (there.get(name), here.get(name)) for name in names}
    values |= {"spec": (before["asked"], now.about["asked"])} if "spec" in names else {}
    said = "; ".join(f"{name}: {brief(old)} there, {brief(new)} here" for name, (old, new) in values.items())
    return HarvestMismatch(
        f"{str(now.path)!r} holds a harvest that differs in {said}. Harvest into another folder, or with the same.",
        folder=now.path,
        differs=tuple(names),
    )


def brief(value: Any) -> str:
    """A value in a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."
