"""Every format gives the same canonical log; types and times are settled over the whole column."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from data_prep.frames import frame_items, frame_log
from data_prep.items import items_file, match_items, read_items
from data_prep.logs import event_files, read_log
from data_prep.times import parse_moment, parse_times
from recsys.config import Columns, DataConfig, ItemColumns
from recsys.errors import InputError

ROWS = [("ann", 3, 100, 5.0), ("bob", 1, 90, 2.5), ("ann", 2, 95, 4.0)]
CANONICAL = {
    "sequence": ["ann", "bob", "ann"],
    "item": [3, 1, 2],
    "time": [100_000_000, 90_000_000, 95_000_000],
    "rating": [5.0, 2.5, 4.0],
    "row": [0, 1, 2],
}
NAMED = Columns(sequence="u", item="i", time="t", rating="r")


def write_log(folder: Path, kind: str, rows: list[tuple[Any, ...]] = ROWS, name: str = "log") -> Path:
    file = folder / f"{name}.{kind}"
    if kind in ("csv", "tsv", "atomic"):
        separator = "," if kind == "csv" else "\t"
        head = (
            ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
            if kind == "atomic"
            else list("uitr")
        )
        file.write_text("\n".join(separator.join(map(str, row)) for row in [tuple(head), *rows]) + "\n")
    elif kind == "parquet":
        pl.DataFrame(rows, schema=list("uitr"), orient="row").write_parquet(file)
    else:
        file.write_text("".join(json.dumps(dict(zip("uitr", row, strict=True))) + "\n" for row in rows))
    return file


def data_of(path: Path | str, kind: str, columns: Columns = NAMED, **more: object) -> DataConfig:
    columns = Columns() if kind == "atomic" else columns
    return DataConfig.model_validate({"path": str(path), "format": kind, "columns": columns, **more})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "atomic"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_format_gives_the_same_log(tmp_path: Path, kind: str, zipped: bool) -> None:
    file = write_log(tmp_path, kind)
    if zipped:
        archive = file.with_name(file.name + ".gz")
        archive.write_bytes(gzip.compress(file.read_bytes()))
        file = archive
    log = read_log(data_of(file, kind), with_rating=True)
    assert log.events.to_dict(as_series=False) == CANONICAL
    assert log.events.schema == pl.Schema(
        {"sequence": pl.String, "item": pl.Int64, "time": pl.Int64, "rating": pl.Float64, "row": pl.Int64}
    )


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table])
def test_frames_of_every_library_give_the_same_log(make: Callable[..., Any]) -> None:
    columns = {name: list(values) for name, values in zip("uitr", zip(*ROWS, strict=True), strict=True)}
    log = frame_log(make(columns), DataConfig(columns=NAMED), with_rating=True)
    assert log.events.to_dict(as_series=False) == CANONICAL


@pytest.mark.parametrize("columns", [NAMED, Columns(sequence="u", item="i")], ids=["all", "some"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "atomic"])
def test_a_row_with_more_fields_than_the_header_is_named(tmp_path: Path, kind: str, columns: Columns) -> None:
    rows = [*ROWS, ("eve", 4, 80, "Lock", "Stock"), ("eve", 5, 81, 1.0)]
    file = write_log(tmp_path, kind, rows)
    with pytest.raises(
        InputError, match=rf"log.{kind} line 5 has 5 fields, but the header 4; .*mend the file"
    ):
        read_log(data_of(file, kind, columns), with_rating=False)
    zipped = file.with_name(f"{file.name}.gz")
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(InputError, match=r"gz line 5 has 5 fields"):
        read_log(data_of(zipped, kind, columns), with_rating=False)
    bare = file.with_name("bare")  # Polars opens it by its content
    bare.write_bytes(zipped.read_bytes())
    with pytest.raises(InputError, match=r"bare has a row of more fields than its header; expected as many"):
        read_log(data_of(bare, kind, columns), with_rating=False)


def test_quoted_separators_are_no_fields(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text('u,i,t,title\nann,3,100,"Lock, Stock"\nann,4,101,"two\nlines"\n')
    log = read_log(data_of(file, "csv", Columns(sequence="u", item="i")), with_rating=False)
    assert log.events["item"].to_list() == [3, 4]
    file.write_text(file.read_text() + "ann,5,102,Lock, Stock\n")
    with pytest.raises(
        InputError, match=r"line 5 has 5 fields, but the header 4.*\(text that holds the separ"
    ):
        read_log(data_of(file, "csv", Columns(sequence="u", item="i")), with_rating=False)


@pytest.mark.parametrize("kind", ["sequences", "pairs"])
def test_sequence_files_are_one_event_a_row(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "log.txt"
    file.write_text("7 3 3 1\n\n 8\t2 \r\n" if kind == "sequences" else "7 3\n7 3\n7 1\n\n8 2\n")
    events = read_log(data_of(file, kind, Columns()), with_rating=False).events
    assert events["sequence"].to_list() == [7, 7, 7, 8]
    assert events["item"].to_list() == [3, 3, 1, 2]
    assert events["time"].null_count() == 4
    assert events["row"].to_list() == [0, 1, 2, 3]


@pytest.mark.parametrize("text", ["7 3 1\n8\n", "7 3 1\n\n8"])
def test_a_sequence_without_items_names_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "log.txt"
    file.write_text(text)
    number = text.count("\n", 0, text.index("8")) + 1
    with pytest.raises(
        InputError, match=f"log.txt line {number} has user `8` and no item; expected `user item item"
    ):
        read_log(DataConfig(path=str(file), format="sequences"), with_rating=False)


def test_pairs_refuse_a_third_field(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("7 3\n7 3 1\n")
    with pytest.raises(InputError, match=r"line 2 has 3 fields; expected `user item`"):
        read_log(DataConfig(path=str(tmp_path / "log.txt"), format="pairs"), with_rating=False)


def test_listed_files_are_read_in_the_listed_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path, "csv", [(name, 1, 0, 1.0)], name=name)
    listed = data_of(tmp_path, "csv", events=["b.csv", "a.*", "b.*"])
    assert read_log(listed, with_rating=False).events["sequence"].to_list() == ["b", "a"]
    with pytest.raises(InputError, match=r"there is no file .*c\.csv; set data\.events"):
        event_files(data_of(tmp_path, "csv", events=["a.csv", "c.csv"]))


def test_files_of_a_glob_follow_their_names(tmp_path: Path) -> None:
    write_log(tmp_path, "csv", [("x", 2, 1, 1)], name="b")
    write_log(tmp_path, "csv", [("x", 1, 1, 1), ("y", 9, 1, 1)], name="a")
    for data in (data_of(tmp_path / "*.csv", "csv"), data_of(tmp_path, "csv", events="*.csv")):
        log = read_log(data, with_rating=False)
        assert [file.name for file in log.files] == ["a.csv", "b.csv"]
        assert log.events.select("item", "row").rows() == [(1, 0), (9, 1), (2, 2)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "20", "-3"], [1, 20, -3]),
        (["1", "007"], ["1", "007"]),  # as an integer it would come back as 7
        (["1", "99999999999999999999"], ["1", "99999999999999999999"]),
        ([*map(str, range(1000)), "a"], [*map(str, range(1000)), "a"]),  # the whole column decides
    ],
)
def test_text_ids_are_integers_only_when_all_are(tmp_path: Path, ids: list[str], expected: list[Any]) -> None:
    file = tmp_path / "log.csv"
    file.write_text("sequence,item\n" + "".join(f"u,{item}\n" for item in ids))
    log = read_log(DataConfig(path=str(file)), with_rating=False)
    assert log.events["item"].to_list() == expected
    if len(ids) > 1000:
        assert log.notices[0].startswith("item ids are strings, though nearly all are whole numbers")
        assert "log.csv row 1001 has `a`" in log.notices[0]
    else:
        assert not log.notices


def test_typed_ids_keep_their_type() -> None:
    def read(values: object) -> pl.Series:
        frame = pd.DataFrame({"sequence": values, "item": 1})
        return frame_log(frame, DataConfig(), with_rating=False).events["sequence"]

    assert read(["1", "2"]).to_list() == ["1", "2"]
    assert read(pd.Categorical(["b", "a"])).to_list() == ["b", "a"]
    assert read([1.0, None, 3.0]).to_list() == [1, None, 3]
    with pytest.raises(InputError, match=r"sequence ids of the frame of events are numbers with fractions"):
        read([1.5, 2.0])
    for large in (1e300, float("inf"), -float("inf"), 2.0**53 + 2):
        with pytest.raises(InputError, match=r"are floats and hold .*; expected whole numbers up to 2\^53"):
            read([1.0, large])
    with pytest.raises(InputError, match=r"are of type Boolean; expected integers or strings"):
        read([True, False])


def test_json_text_that_looks_like_a_date_stays_text(tmp_path: Path) -> None:
    file = write_log(tmp_path, "jsonl", [("2024-01-01", 1, "2024-01-02T00:00:00Z", 1)])
    events = read_log(data_of(file, "jsonl"), with_rating=False).events
    assert events["sequence"].to_list() == ["2024-01-01"]
    assert events["time"].to_list() == [parse_moment("2024-01-02", "x")]


@pytest.mark.parametrize(
    ("values", "unit", "text_format", "expected"),
    [
        (pl.Series([1, None]), "s", None, [1_000_000, None]),
        (pl.Series([1.5]), "s", None, [1_500_000]),
        (pl.Series([1_700_000_000_123]), "ms", None, [1_700_000_000_123_000]),
        (pl.Series([1_700_000_000_123_456]), "us", None, [1_700_000_000_123_456]),
        (pl.Series([1_700_000_000_123_456_789]), "ns", None, [1_700_000_000_123_456]),
        (pl.Series(["10", " 11 ", ""]), "s", None, [10_000_000, 11_000_000, None]),
        (pl.Series(["10.25", "1e1"]), "s", None, [10_250_000, 10_000_000]),
        (pl.Series(["1970-01-02", "1970-01-01T00:00:01.5Z"]), "s", None, [86_400_000_000, 1_500_000]),
        (pl.Series(["1970-01-01 02:00", "1970-01-01T02:00:00+02:00"]), "s", None, [7_200_000_000, 0]),
        (pl.Series(["02.01.1970"]), "s", "%d.%m.%Y", [86_400_000_000]),
        (pl.Series(["1970-01-01 01:00 +0100"]), "s", "%Y-%m-%d %H:%M %z", [0]),
        (pl.Series([0]).cast(pl.Datetime("ms", "Europe/Paris")), "s", None, [0]),
        (pl.Series([1]).cast(pl.Date), "s", None, [86_400_000_000]),
    ],
)
def test_times_become_microseconds(
    values: pl.Series, unit: str, text_format: str | None, expected: list[int | None]
) -> None:
    parsed = parse_times(values, unit, text_format, str)
    assert parsed.dtype == pl.Int64
    assert parsed.to_list() == expected


@pytest.mark.parametrize(
    ("values", "unit", "text_format", "message"),
    [
        (["1", "x"], "s", None, "row 2: time `x` is not a number of `s`"),
        (["2024-01-01", "2024-13-01"], "s", None, "row 2: time `2024-13-01` is not an ISO 8601 date"),
        (["yesterday"], "s", None, "row 1: time `yesterday` is not an ISO 8601 date"),
        (["1/2/2024"], "s", "%Y", "row 1: time `1/2/2024` is not of the form `%Y`"),
        (
            [1_700_000_000_000],
            "s",
            None,
            "outside the years 1 to 9999; correct the row or set data.time_unit",
        ),
        ([float("inf")], "s", None, "row 1: time `inf` is not a number"),
        (
            ["0000-12-31"],
            "s",
            None,
            "row 1: time `0000-12-31` is not an ISO 8601 date or time, or lies outside",
        ),
        ([-62_135_596_801.0], "s", None, "outside the years 1 to 9999"),
        (
            pl.Series([0, 2**31 - 1]).cast(pl.Int32).cast(pl.Date),
            "s",
            None,
            "row 2: time `2147483647` is not a Date",
        ),
        (
            pl.Series([-(2**62)]).cast(pl.Datetime("us")),
            "s",
            None,
            "-4611686018427387904` is not a Datetime",
        ),
        ([True], "s", None, "row 1: time is of type Boolean"),
    ],
)
def test_a_bad_time_names_its_row(
    values: list[Any] | pl.Series, unit: str, text_format: str | None, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_times(pl.Series(values), unit, text_format, lambda row: f"row {row + 1}")
    assert message in str(caught.value)


def test_one_moment_is_utc_unless_it_says_otherwise() -> None:
    assert parse_moment("1970-01-02", "x") == 86_400_000_000
    assert parse_moment("1970-01-01T00:00:00.000001-01:00", "x") == 3_600_000_001
    with pytest.raises(InputError, match=r"x is `9999-12-31T23:00-02:00`; expected a date within the years"):
        parse_moment("9999-12-31T23:00-02:00", "x")
    with pytest.raises(InputError, match=r"clean.start is `soon`; expected an ISO 8601 date such as"):
        parse_moment("soon", "clean.start")


def test_item_table_of_text_settles_types_by_whole_columns(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text('item,name,year,price,code\n1,1984,1949,1,007\n2,"Emma, a novel",,2.5,12\n')
    data = DataConfig(path=str(tmp_path), items="items.csv", item_columns=ItemColumns(title="name"))
    assert items_file(data) == file
    table = read_items(data, file)
    assert table is not None
    assert table.to_dict(as_series=False) == {
        "id": [1, 2],
        "title": ["1984", "Emma, a novel"],
        "year": [1949, None],
        "price": [1.0, 2.5],
        "code": ["007", "12"],
    }


def test_atomic_folder_brings_its_own_names(tmp_path: Path) -> None:
    write_log(tmp_path, "atomic").rename(tmp_path / "x.inter")
    (tmp_path / "x.item").write_text('item_id:token\tmovie_title:token_seq\n1\t"Quoted" film\n')
    data = DataConfig(path=str(tmp_path), format="atomic", item_columns=ItemColumns(title="movie_title"))
    assert event_files(data) == [tmp_path / "x.inter"]
    table = items_file(data)
    assert table is not None
    read = read_items(data, table)
    assert read is not None
    assert read.rows() == [(1, '"Quoted" film')]
    typo = data.model_copy(update={"columns": Columns(time="timestmp")})
    with pytest.raises(
        InputError, match=r"no column `timestmp` \(data.columns.time\); did you mean `timestamp`"
    ):
        read_log(typo, with_rating=False)


@pytest.mark.parametrize(
    ("log_ids", "table_ids"), [([1, 2, 3], ["2", "x", "1", "1"]), (["1", "2", "3"], [2, 9, 1, 1])]
)
def test_item_table_meets_the_log_in_the_type_of_the_log(log_ids: list[Any], table_ids: list[Any]) -> None:
    table = pl.DataFrame({"id": table_ids, "title": ["two", "other", "one", "again"]})
    matched, notices = match_items(table, pl.Series("id", log_ids))
    assert matched.to_dict(as_series=False) == {"id": log_ids, "title": ["one", "two", None]}
    assert notices[0] == "item table: 1 rows repeat an id; its first row counts"
    assert notices[1] == "item table: 1 of 3 items in the log are not in it"


def test_item_table_of_other_items_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"knows none of the 1 items in the log \(the log has `1`, the table `a`\)"
    ):
        match_items(pl.DataFrame({"id": ["a"]}), pl.Series("id", [1]))


def test_item_attribute_with_a_reserved_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"item attribute `count` of the frame of items has a name that"):
        frame_items(pl.DataFrame({"item": [1], "count": [2]}), DataConfig())
    with pytest.raises(InputError, match=r"item attribute `recent` of the frame of items has a name that"):
        frame_items(pl.DataFrame({"item": [1], "recent": [2]}), DataConfig())
    chosen = DataConfig(item_columns=ItemColumns(attributes=()))
    assert frame_items(pl.DataFrame({"item": [1], "count": [2]}), chosen).columns == ["id"]


def test_a_quote_in_a_tsv_is_a_character(tmp_path: Path) -> None:
    rows = [f"u{row % 5}\ti{row}\t{row}" for row in range(100)]
    rows[20], rows[60] = 'u1\t"i1\t20', 'u1\ti3"\t60'
    (tmp_path / "log.tsv").write_text("\n".join(["sequence\titem\ttime", *rows]) + "\n")
    log = read_log(data_of(tmp_path / "log.tsv", "tsv", Columns(time="time")), with_rating=False)
    items = log.events["item"].to_list()
    assert (len(items), items[20], items[60]) == (100, '"i1', 'i3"')
