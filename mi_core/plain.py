"""Results as plain data: what JSON can hold, and back to equal values.

Numbers, text, ``None`` and mappings with text keys are themselves, tuples are lists. The rest is a mapping with one key
that begins with ``$``: ``{"$float": "nan"}``, ``{"$pairs": [[key, value], ...]}``, ``{"$labelled": {...}}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mi_core.errors import InputError, NotSerialisable

__all__ = ["from_plain", "frozen", "numbers_from_plain", "numbers_to_plain", "read_json", "to_plain", "write_json"]

Readers = Mapping[str, Callable[[Any], Any]]


def to_plain(value: Any) -> Any:
    """``value`` in terms of what JSON can hold; objects give theirs by a method ``to_data``.

    >>> to_plain((1, float("inf"), {2: "two"}))
    [1, {'$float': 'inf'}, {'$pairs': [[2, 'two']]}]

    Raises:
        NotSerialisable: a kind of value that no result may hold.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: to_plain(item) for key, item in value.items()}
        return {"$pairs": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if hasattr(value, "to_data"):
        return {f"${type(value).__name__.lower()}": value.to_data()}
    raise NotSerialisable(
        f"a result cannot hold {value!r} ({type(value).__name__}): use numbers, text, tuples, mappings or Labelled",
        value=value,
    )


def from_plain(data: Any, readers: Readers | None = None) -> Any:
    """The value that ``to_plain`` turned into ``data``; ``readers`` make the objects, by the name behind the ``$``.

    >>> from_plain(to_plain((1, {2: (3, 4)})))
    (1, {2: (3, 4)})
    """
    if isinstance(data, list):
        return tuple(from_plain(item, readers) for item in data)
    if not isinstance(data, dict):
        return data
    if len(data) == 1 and (tag := next(iter(data))).startswith("$"):
        content = data[tag]
        if tag == "$float":
            return float(content)
        if tag == "$pairs":
            return {from_plain(key, readers): from_plain(item, readers) for key, item in content}
        if readers is None or tag[1:] not in readers:
            raise NotSerialisable(f"{tag!r} is nothing that a result may hold", tag=tag)
        return readers[tag[1:]](content)
    return {key: from_plain(item, readers) for key, item in data.items()}


def frozen(value: Any) -> Any:
    """The same value with tuples in place of lists, at every depth, as it comes back from JSON.

    >>> frozen([1, {"a": [2]}])
    (1, {'a': (2,)})
    """
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, Mapping):
        return {frozen(key): frozen(item) for key, item in value.items()}
    return value


def numbers_to_plain(numbers: Any) -> Any:
    """Nested lists of numbers with text for what JSON lacks: ``"nan"``, ``"inf"``, ``"-inf"``."""
    if isinstance(numbers, list):
        return [numbers_to_plain(number) for number in numbers]
    return numbers if not isinstance(numbers, float) or math.isfinite(numbers) else str(numbers)


def numbers_from_plain(numbers: Any) -> Any:
    """The nested lists that ``numbers_to_plain`` was given.

    >>> numbers_from_plain(numbers_to_plain([1.5, float("-inf")]))
    [1.5, -inf]
    """
    if isinstance(numbers, list):
        return [numbers_from_plain(number) for number in numbers]
    return float(numbers) if isinstance(numbers, str) else numbers


def write_json(data: Any, path: str | Path | None = None) -> str:
    """Plain data as JSON text, written to ``path`` if one is given."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8", errors="surrogatepass")
    return text


def read_json(source: str | Path) -> Any:
    """The plain data in a JSON text (it begins with a brace) or in a file.

    Raises:
        InputError: no such file, or no valid JSON in it.
    """
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    where = "the text" if is_text else repr(str(source))
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8", errors="surrogatepass")
        return json.loads(text)
    except OSError as error:
        raise InputError(
            f"{where} cannot be read: {error.strerror}. Give a JSON text or the path of a file", path=source
        ) from error
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}", path=source) from error
