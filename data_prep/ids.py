"""Original ids keep their type: every id column is either int64 or strings, never a mixture."""

from __future__ import annotations

import polars as pl

from recsys.errors import InputError

_EXACT = 2.0**53  # the floats up to here hold every integer


def typed_ids(values: pl.Series, where: str) -> pl.Series:
    """Ids of a source that has types (Parquet, JSON lines, frames), as int64 or strings.

    Floats that are all whole become integers: that is what a table makes of integers with gaps. Beyond 2^53
    floats do not tell neighbouring integers apart.
    Empty strings are null.

    Args:
        values: (n,) ids.
        where: what to name in an error, such as `item ids (column `sku`) of log.parquet`.

    Raises:
        InputError: the ids are of mixed type, neither integers nor strings, or too large.
    """
    kind = values.dtype
    if kind.is_integer() or kind == pl.Null:
        try:
            return values.cast(pl.Int64)
        except pl.exceptions.InvalidOperationError as error:
            raise InputError(f"{where} do not fit 64 bits; give them as strings") from error
    if kind in (pl.String, pl.Categorical, pl.Enum):
        text = values.cast(pl.String)
        return text.set(text == "", None)
    if kind.is_float():
        numbers = values.set(values.is_nan(), None)
        present = numbers.drop_nulls()
        large = present.filter(present.abs() > _EXACT)
        if len(large):
            raise InputError(
                f"{where} are floats and hold {large[0]}; expected whole numbers up to 2^53: give larger "
                "ones as integers or strings"
            )
        if (present == present.round()).all():
            return numbers.cast(pl.Int64)
        raise InputError(f"{where} are numbers with fractions; expected integers or strings")
    if kind == pl.Object:
        raise mixed_type(where)
    raise InputError(f"{where} are of type {kind}; expected integers or strings")


def mixed_type(where: str, detail: str = "") -> InputError:
    """The error of an id column that holds integers and strings at once."""
    return InputError(
        f"{where} are of mixed type{detail}; expected all integers or all strings: convert them to strings"
    )


def text_ids(values: pl.Series) -> pl.Series:
    """Ids of a text file: int64 when every one of the whole column is a plain integer, else strings.

    `007` and `+7` are not plain: as integers they would come back as `7`.

    Args:
        values: (n,) strings; null where a field is empty.
    """
    numbers = plain_integers(values)
    return numbers if numbers.null_count() == values.null_count() else values


def plain_integers(values: pl.Series) -> pl.Series:
    """Integers (n,) of strings; null where a string is not the way that integer is written."""
    numbers = values.cast(pl.Int64, strict=False)
    return numbers.set(numbers.cast(pl.String) != values, None)


def odd_one_out(values: pl.Series) -> int | None:
    """Row of the first string among ids that are integers in all but 1% of the rows, or None.

    Such a column holds strings, as it says; but a person who expects integers wants to know.
    """
    strings = plain_integers(values).is_null() & values.is_not_null()
    count = int(strings.sum())
    return int(strings.arg_true()[0]) if 0 < count <= len(values) // 100 else None
