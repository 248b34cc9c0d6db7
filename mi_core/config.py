"""A checkpoint's config.json that remembers which of its keys were read."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mi_core.errors import BadConfig

__all__ = ["Config"]

REQUIRED: Final[Any] = object()

# The most that a count can sensibly be, by a word in its key; the first that fits decides. Far above every published
# model, and low enough that building empty modules of that size takes seconds and no memory.
LIMITS: Final = (("layer", 4096), ("head", 65_536), ("expert", 65_536), ("position", 2**40), ("", 2**28))


class Config(Mapping[str, Any]):
    """Which numbers does this checkpoint state, and which of them did anybody read?

    Reading a key through ``[...]``, ``get`` or a typed reader counts as using it, a nested value as a whole; through
    ``child`` the nested keys count one by one. Iterating over the names and ``in`` count nothing.

    Raises:
        BadConfig: a key that is missing, of the wrong kind or out of bounds; the message names file, key and value.

    >>> config = Config({"hidden_size": 64, "rope": {"base": 1e4, "factor": 2.0}, "surprise": 1}, where="config.json")
    >>> config.size("hidden_size"), config.child("rope").number("base")
    (64, 10000.0)
    >>> config.unread()
    {'rope.factor': 2.0, 'surprise': 1}
    """

    def __init__(self, values: Mapping[str, Any], *, where: str = "config", prefix: str = "") -> None:
        self.where = where
        self._values = dict(values)
        self._prefix = prefix
        self._read: set[str] = set()
        self._assumed: dict[str, tuple[Any, Sequence[str] | Mapping[str, Any]]] = {}
        self._children: dict[str, Config] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise self._missing(key)
        self._read.add(key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Config({self._values!r}, where={self.where!r})"

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands (null is None), or the default where there is no such key."""
        if key not in self._values:
            self._assumed[key] = default, ()
        return self[key] if key in self._values else default

    def child(self, key: str, default: Mapping[str, Any] = REQUIRED) -> Config:
        """The mapping under a key, whose own keys then count one by one; null counts as absent."""
        if key not in self._children:
            value = self._value(key, default, "a mapping")
            if not isinstance(value, Mapping):
                raise self._wrong(key, value, "a mapping")
            self._children[key] = Config(value, where=self.where, prefix=f"{self._prefix}{key}.")
        return self._children[key]

    def size(self, key: str, *, default: Any = REQUIRED, at_least: int = 1, at_most: int | None = None) -> Any:
        """A whole number within sensible bounds; a default that is None makes it optional. Null counts as absent."""
        value = self._value(key, default, "a whole number")
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        most = next(limit for word, limit in LIMITS if word in key) if at_most is None else at_most
        if type(value) is not int or not at_least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {at_least} to {most}")
        return value

    def number(
        self, key: str, *, default: Any = REQUIRED, at_least: float = -math.inf, at_most: float = math.inf
    ) -> Any:
        """A finite number within bounds; a default that is None makes it optional. Null counts as absent."""
        value = self._value(key, default, "a number")
        if value is None:
            return None
        real = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
        if not real or not at_least <= value <= at_most:
            bounds = f" from {at_least} to {at_most}" if (at_least, at_most) != (-math.inf, math.inf) else ""
            raise self._wrong(key, value, f"a finite number{bounds}")
        return float(value)

    def flag(self, key: str, *, default: Any = REQUIRED) -> bool:
        """True or false. Null counts as absent."""
        value = self._value(key, default, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def choice(self, key: str, options: Sequence[str] | Mapping[str, Any], *, default: Any = REQUIRED) -> str:
        """One of a few words. Null counts as absent."""
        value = self._value(key, default, "a word")
        if key in self._assumed:
            self._assumed[key] = value, options
        if not isinstance(value, str) or value not in options:
            raise self._wrong(key, value, f"one of {', '.join(map(repr, options))}")
        return value

    def unread(self) -> dict[str, Any]:
        """Keys that nobody read and their values, nested ones as ``"outer.inner"``; nulls are left out."""
        found: dict[str, Any] = {}
        for key, value in self._values.items():
            if key in self._read or value is None:
                continue
            if key in self._children:
                found |= {f"{key}.{inner}": what for inner, what in self._children[key].unread().items()}
            else:
                found[key] = value
        return found

    def assumed(self) -> dict[str, tuple[Any, tuple[str, ...]]]:
        """Keys that are absent or null and for which a reader took a value of its own: that value, and its options.

        >>> config = Config({"hidden_size": 64})
        >>> config.flag("bias", default=True), config.choice("act", ["relu", "silu"], default="silu")
        (True, 'silu')
        >>> config.assumed()
        {'bias': (True, ()), 'act': ('silu', ('relu', 'silu'))}
        """
        own = {key: (value, tuple(options)) for key, (value, options) in self._assumed.items()}
        for name, child in self._children.items():
            own |= {f"{name}.{key}": found for key, found in child.assumed().items()}
        return own

    def plain(self) -> dict[str, Any]:
        """A deep copy as ordinary data; counts nothing."""
        return copy.deepcopy(self._values)

    def _value(self, key: str, default: Any, kind: str) -> Any:
        if self._values.get(key) is not None:
            value = self._values[key]
            if not (kind == "a mapping" and isinstance(value, Mapping)):
                self._read.add(key)
            return value
        if default is REQUIRED:
            raise self._missing(key, kind)
        self._read.add(key)
        if default is not None and kind != "a mapping":
            self._assumed[key] = default, ()
        return default

    def _missing(self, key: str, kind: str = "a value") -> BadConfig:
        null = " (it is null)" if key in self._values else ""
        near = difflib.get_close_matches(key, self._values, n=1)
        hint = f" Closest: {near[0]!r}." if near and not null else ""
        return BadConfig(
            f"{self.where}: no {self._prefix + key!r}{null}, {kind} is needed.{hint} "
            f"It has: {', '.join(sorted(self._values)) or 'nothing'}.",
            key=self._prefix + key,
            path=self.where,
        )

    def _wrong(self, key: str, value: Any, wanted: str) -> BadConfig:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        return BadConfig(
            f"{self.where}: {self._prefix + key!r} is {shown}, it must be {wanted}.",
            key=self._prefix + key,
            path=self.where,
            value=value,
        )
