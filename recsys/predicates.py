"""Conditions on a column of the item table: one of some values, an order, or a value that is missing.

Shapes: `V` items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.errors import InputError

Condition = Iterable[object] | Mapping[str, object]
"""Values of which an item must have one, or operators with their values: `{">=": 1990, "<=": 1999}`.

None among the values, and `{"==": None}`, mean an item that has no value.
"""

_ORDERS: dict[str, Callable[..., Any]] = {">=": pc.greater_equal, "<=": pc.less_equal}
_ROUNDED: dict[str, Callable[[float], int]] = {">=": math.ceil, "<=": math.floor}
LARGEST_INTEGER = 2**63
OPERATORS = ("in", "==", *_ORDERS)


def holds(name: str, column: pa.ChunkedArray, condition: Condition) -> NDArray[np.bool_]:
    """(V,) items that meet a condition, all operators of it.

    An item whose attribute is a list meets an operator when one of the elements does. A missing value (and
    an empty list) meets no order, and of values only None.

    Args:
        name: of the attribute, for messages.
        column: its V values, or V lists of values.
        condition: see `Condition`.

    Raises:
        InputError: an operator is unknown, or the attribute cannot have or be compared with such a value.
    """
    if isinstance(condition, str):
        raise InputError(f"attribute `{name}` shall be one of the text {condition!r}; give a list of values")
    asked = condition if isinstance(condition, Mapping) else {"in": condition}
    values = column.combine_chunks()
    owners = None
    mask = np.ones(len(values), dtype=bool)
    missing = np.asarray(values.is_null())
    if _is_list(values.type):
        missing = missing | (np.asarray(pc.fill_null(pc.list_value_length(values), 0)) == 0)
        owners, values = np.asarray(pc.list_parent_indices(values)), pc.list_flatten(values)
    for operator, value in asked.items():
        met, or_missing = _met(name, values, operator, value)
        if owners is not None:
            some = np.zeros(len(mask), dtype=bool)
            some[owners[met]] = True
            met = some
        mask &= met | missing if or_missing else met & ~missing
    return mask


def _met(name: str, values: pa.Array, operator: str, value: object) -> tuple[NDArray[np.bool_], bool]:
    """Which values meet the operator, and whether a missing one does."""
    if operator in _ORDERS:
        return _compared(name, values, operator, value), False
    if operator not in OPERATORS:
        known = ", ".join(OPERATORS)
        raise InputError(
            f"attribute `{name}` has the operator `{operator}`, which is unknown; known: {known}"
        )
    if operator == "==":
        chosen: list[object] = [value]
    elif isinstance(value, Iterable) and not isinstance(value, str):
        chosen = list(value)
    else:
        raise InputError(f"attribute `{name}` shall be `in` {value!r}; expected a list of values")
    present = [each for each in chosen if each is not None]
    if not present:  # then the type may be one whose values cannot be looked for
        return np.zeros(len(values), dtype=bool), bool(chosen)
    try:
        found = pc.is_in(values, value_set=pa.array(present, type=values.type))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"attribute `{name}` is of type {values.type}, and one of {present!r} is not; give values of it"
        ) from error
    return np.asarray(found), len(present) < len(chosen)


def _compared(name: str, values: pa.Array, operator: str, value: object) -> NDArray[np.bool_]:
    """Which values stand in that order to a bound: numbers to numbers, texts and times to text."""
    integers = pa.types.is_integer(values.type)
    numeric = integers or pa.types.is_floating(values.type)
    try:
        if value is None or value != value or numeric != _is_number(value):
            raise pa.ArrowInvalid("no bound")
        if integers and isinstance(value, float) and abs(value) < LARGEST_INTEGER:
            value = _ROUNDED[operator](value)  # compared as floats, integers beyond 2^53 would be refused
        # Everything else is of the column's own type: 0.1 in float32 is not greater than 0.1.
        bound = pa.scalar(value) if integers else pa.scalar(value).cast(values.type)
        found = _ORDERS[operator](values, bound)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"attribute `{name}` is of type {values.type}, not to be compared by {operator} with {value!r}; "
            "give a bound of that type"
        ) from error
    return np.asarray(pc.fill_null(found, False))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


class Groups:
    """The values that each of V items has of an attribute, as numbers: what `at most m of each` counts."""

    def __init__(self, name: str, column: pa.ChunkedArray) -> None:
        """Number the values.

        Raises:
            InputError: the attribute's values cannot be told apart, such as those of a struct.
        """
        self.name = name
        values = column.combine_chunks()
        rows = np.arange(len(values))
        if _is_list(values.type):
            rows, values = np.asarray(pc.list_parent_indices(values)), pc.list_flatten(values)
        try:
            codes = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        except pa.ArrowException as error:
            raise InputError(
                f"attribute `{name}` is of type {values.type}, whose values cannot be counted; name another"
            ) from error
        there = np.asarray(codes.is_valid())
        self._rows = rows[there]
        self._codes = np.asarray(codes.indices.filter(pa.array(there)), dtype=np.int64)
        self._starts = np.searchsorted(self._rows, np.arange(len(column) + 1))

    def of(self, index: int) -> set[int]:
        """Numbers of the values of an item index; none where it has no value."""
        return set(self._codes[self._starts[index - 1] : self._starts[index]].tolist())

    def rows_with(self, codes: set[int]) -> NDArray[np.int64]:
        """Rows of the items that have one of these values."""
        rows: NDArray[np.int64] = self._rows[np.isin(self._codes, list(codes))]
        return rows
