"""Labelled arrays as pandas data frames: one row for each number. Needs the extra ``frame``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from mi_core.errors import MiError, ValueMismatch
from mi_core.labelled import Labelled

__all__ = ["frame"]


def frame(arrays: Sequence[Labelled]) -> Any:
    """A data frame with a column for each axis of the first array and for the numbers of each array.

    An array that lacks an axis of the first is repeated along it. A position gives two columns: its number, its token.

    Raises:
        MiError: pandas is not installed.
        ValueMismatch: an array has an axis or labels that the first has not.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError as error:
        raise MiError("a data frame needs pandas, which is not installed: pip install 'mi-core[frame]'") from error
    first = arrays[0]
    for array in arrays[1:]:
        if any(dim not in first.dims or array.coords[dim] != first.coords[dim] for dim in array.dims):
            raise ValueMismatch(
                f"{array!r} does not lie along the axes of {first!r}: make a frame of its own", array=array.name
            )
    columns = axis_columns(first)
    for number, array in enumerate(arrays):
        columns[array.name or f"value{number or ''}"] = numbers(array, first)
    return pd.DataFrame(columns)


def axis_columns(array: Labelled) -> dict[str, Any]:
    """One column for each axis, two where its labels are positions with tokens."""
    rows = list(product(*(array.coords[dim] for dim in array.dims)))
    columns: dict[str, Any] = {}
    for axis, dim in enumerate(array.dims):
        labels = [row[axis] for row in rows]
        pairs = [label for label in labels if isinstance(label, tuple)]
        if pairs and len(pairs) == len(labels):
            columns[dim] = [number for number, _ in pairs]
            columns[f"{dim}_token"] = [token for _, token in pairs]
        else:
            columns[dim] = labels
    return columns


def numbers(array: Labelled, like: Labelled) -> Any:
    """The numbers of ``array`` in the order of the rows of ``like``."""
    values = array.values.permute([array.dims.index(dim) for dim in like.dims if dim in array.dims])
    for axis, dim in enumerate(like.dims):
        if dim not in array.dims:
            values = values.unsqueeze(axis)
    values = values.expand(like.shape).reshape(-1)
    return (values.float() if values.dtype.is_floating_point and values.element_size() < 4 else values).numpy()
