"""Mutated logs: what a log can suffer on its way, drawn by a seeded generator.

`python -m tests.fuzz 10000` prepares so many and prints how many were refused, and by which error.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data_prep.append import append
from data_prep.prepare import prepare
from data_prep.quality import measure_quality
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError

FORMATS = (
    *("csv", "tsv", "jsonl", "parquet", "atomic", "sequences", "pairs"),
    *(
        "movielens",
        "amazon-2014",
        "amazon-2018",
        "amazon-2023",
        "spotify-mpd",
        "lastfm-1k",
        "lastfm-2k",
        "steam",
        "yelp",
    ),
)
ODD = (
    *("", "NaN", "nan", "inf", "-inf", "null", "None", "true", "1e400", "-1", "99999999999999999999", "0x1F"),
    *("1.5", "007", "+7", "2024-13-45", "12:00", '"', "'", "\\", "\t", "::", ",", "{", "[]", "é", "\u202e"),
    *("\ufeff", "\r", "x" * 300_000),
)
BYTES = (b"\x00", b"\xff", b"\xfe\xff", b"\xc3", b"\x1f\x8b", b"\r", b"\n", b"\n\n", b"PAR1", b"\x80\x80")

PLAIN = {"csv": ",", "tsv": "\t", "atomic": "\t", "movielens": "::", "pairs": " "}
"""Formats of one event a line, which `plain_reading` reads too -> what separates their fields."""

Generator = np.random.Generator


def sound_log(kind: str, generator: Generator) -> bytes:
    """A small log that this format reads."""
    rows = [(f"u{user}", int(generator.integers(1, 9)), 1_000 * user + place)
            for user in range(4) for place in range(5)]  # fmt: skip
    if kind in ("csv", "tsv", "atomic"):
        separator = "," if kind == "csv" else "\t"
        atomic = ("user_id:token", "item_id:token", "timestamp:float")
        head = atomic if kind == "atomic" else ("sequence", "item", "time")
        return "".join(separator.join(map(str, row)) + "\n" for row in (head, *rows)).encode()
    if kind == "parquet":
        buffer = io.BytesIO()
        pl.DataFrame(rows, schema=["sequence", "item", "time"], orient="row").write_parquet(buffer)
        return buffer.getvalue()
    if kind == "sequences":
        return "".join(f"u{user} " + " ".join(str(row[1]) for row in rows[5 * user : 5 * user + 5]) + "\n"
                       for user in range(4)).encode()  # fmt: skip
    if kind == "spotify-mpd":
        tracks = [{"pos": place, "track_uri": f"t:{row[1]}"} for place, row in enumerate(rows[:5])]
        return json.dumps({"playlists": [{"pid": pid, "tracks": tracks} for pid in (1, 2)]}).encode()
    first = "userID\tartistID\ttagID\ttimestamp\n" if kind == "lastfm-2k" else ""
    return (first + "".join(_line(kind, *row) + "\n" for row in rows)).encode()


def _line(kind: str, user: str, item: int, time: int) -> str:
    """One event of a format of lines."""
    name = f"i{item}"
    amazon = {"reviewerID": user, "asin": name, "overall": 5.0, "unixReviewTime": time}
    lines: dict[str, Callable[[], str]] = {
        "jsonl": lambda: json.dumps({"sequence": user, "item": item, "time": time}),
        "pairs": lambda: f"{user} {item}",
        "movielens": lambda: f"{user}::{item}::3::{time}",
        "amazon-2014": lambda: repr(amazon),
        "amazon-2018": lambda: json.dumps(amazon),
        "amazon-2023": lambda: json.dumps(
            {"user_id": user, "parent_asin": name, "rating": 1.0, "timestamp": time * 1000}
        ),
        "lastfm-1k": lambda: f"{user}\t2009-05-04T23:{time % 60:02d}:57Z\t{name}\tartist\tt\ttrack",
        "lastfm-2k": lambda: f"{user}\t{item}\t1\t{time * 1000}",
        "steam": lambda: repr({"username": user, "product_id": name, "date": f"2017-01-{time % 28 + 1:02d}"}),
        "yelp": lambda: json.dumps(
            {"user_id": user, "business_id": name, "stars": 4.0, "date": f"2017-01-01 00:00:{time % 60:02d}"}
        ),
    }
    return lines[kind]()


def mutated(content: bytes, generator: Generator) -> bytes:
    """The content after one to three accidents."""
    for _ in range(int(generator.integers(1, 4))):
        accident = ACCIDENTS[int(generator.integers(len(ACCIDENTS)))]
        content = accident(content, generator)
    return content


def _cut(content: bytes, generator: Generator) -> bytes:
    return content[: int(generator.integers(len(content) + 1))]


def _insert(content: bytes, generator: Generator) -> bytes:
    place = int(generator.integers(len(content) + 1))
    return content[:place] + BYTES[int(generator.integers(len(BYTES)))] + content[place:]


def _overwrite(content: bytes, generator: Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        if changed:
            changed[int(generator.integers(len(changed)))] = int(generator.integers(256))
    return bytes(changed)


def _odd_field(content: bytes, generator: Generator) -> bytes:
    """A field becomes something that no one expects there."""
    marks = [place for place, byte in enumerate(content) if byte in b',\t :"\n']
    if len(marks) < 2:
        return content
    first = int(generator.integers(len(marks) - 1))
    odd = ODD[int(generator.integers(len(ODD)))].encode()
    return content[: marks[first] + 1] + odd + content[marks[first + 1] :]


def _lines(content: bytes, generator: Generator) -> bytes:
    """A line is lost, doubled, moved to the front, or joined with the next."""
    lines = content.split(b"\n")
    place, what = int(generator.integers(len(lines))), int(generator.integers(4))
    line = lines.pop(place)
    if what == 1:
        lines[place:place] = [line, line]
    elif what == 2:
        lines.insert(0, line)
    elif what == 3 and lines:
        lines[min(place, len(lines) - 1)] += line
    return b"\n".join(lines)


def _encoding(content: bytes, generator: Generator) -> bytes:
    name = ("utf-16", "utf-16-le", "utf-8-sig", "utf-32")[int(generator.integers(4))]
    return content.decode("utf-8", errors="replace").encode(name)


def _columns(content: bytes, generator: Generator) -> bytes:
    """Names and types of another log: the header is doubled, or a name is another's."""
    names = [b"sequence", b"item", b"time", b"user_id", b"item_id", b"asin"]
    first, second = generator.choice(len(names), 2, replace=False)
    return content.replace(names[first], names[second])


ACCIDENTS = (_cut, _insert, _overwrite, _odd_field, _odd_field, _lines, _encoding, _columns)


def plain_reading(kind: str, content: bytes, header: int) -> dict[str, list[str]]:
    """User -> items by time, then by line; an event twice is one, where there are times."""
    fields = [line.split(PLAIN[kind]) for line in content.decode().split("\n")[header:] if line]
    if kind != "pairs":
        fields = list({(user, item, more[-1]): [user, item, *more] for user, item, *more in fields}.values())
        fields.sort(key=lambda each: int(each[-1]))
    users: dict[str, list[str]] = {}
    for user, item, *_ in fields:
        users.setdefault(user, []).append(item)
    return users


def check_one(folder: Path, seed: int) -> str:
    """Prepare one mutated log and hold the outcome to its promise.

    Returns:
        The error's kind, or `prepared`.

    Raises:
        AssertionError: the error is not one clear line, something half-written is left, or the result is
            wrong.
    """
    generator = np.random.default_rng(seed)
    kind = FORMATS[seed % len(FORMATS)]
    content = mutated(sound_log(kind, generator), generator)
    file = folder / f"log{seed}"
    if generator.random() < 0.1:
        file, content = file.with_suffix(".gz"), gzip.compress(content)
        content = _cut(content, generator) if generator.random() < 0.5 else content
    file.write_bytes(content)
    out = folder / f"out{seed}"
    config = fuzz_config(kind, file, out)
    try:
        report = prepare(config)
    except InputError as error:
        assert not out.exists()
        outcome = " ".join(_clear(error).replace(str(file), "FILE").split()[:5])[:80]
    else:
        data = PreparedData.load(out)
        counts = report.manifest["counts"]
        assert counts["events"] == len(data.sequences.values) <= counts["events_read"]
        assert measure_quality(out)["leakage"]["passed"]
        assert pq.read_table(out / "items.parquet")["id"].null_count == 0
        assert prepare(config).reused
        outcome = "prepared"
    assert not list(folder.glob(f".out{seed}*"))
    shutil.rmtree(out, ignore_errors=True)
    file.unlink()
    return outcome


def fuzz_config(kind: str, path: Path, out: Path) -> ExperimentConfig:
    columns = {"time": "time"} if kind in ("csv", "tsv", "jsonl", "parquet") else {}
    data = {"path": str(path), "format": kind, "columns": columns}
    return build_config({"name": "fuzz", "prepared": str(out), "data": data}, where="fuzz")


def _clear(error: InputError) -> str:
    """Its message, which must be one line that a person reads."""
    message = str(error)
    assert message.strip() and "\n" not in message, message
    assert len(message) < 2_000, f"{len(message)} characters: {message[:200]}"
    return message


def check_appended(folder: Path, seed: int) -> str:
    """Append one mutated log to a sound data set: refused, it changes nothing; taken, no index moves.

    Raises:
        AssertionError: it is otherwise.
    """
    generator = np.random.default_rng(seed)
    kind = FORMATS[seed % len(FORMATS)]
    log, out = folder / f"nights{seed}", folder / f"out{seed}"
    log.mkdir()
    (log / "night-1").write_bytes(sound_log(kind, generator))
    config = fuzz_config(kind, log / "night-*", out)
    items = append(config).manifest["counts"]["items"]
    files = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    before = PreparedData.load(out)
    (log / "night-2").write_bytes(mutated(sound_log(kind, generator), generator))
    try:
        append(config)
    except InputError as error:
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == files
        _clear(error)
        outcome = "appending refused"
    else:
        after = PreparedData.load(out)
        assert after.vocabulary.ids[:items].equals(before.vocabulary.ids)
        assert after.ids[: len(before.ids)].equals(before.ids)
        assert append(config).reused
        outcome = "appended"
    assert not list(folder.glob(f".out{seed}*"))
    shutil.rmtree(out)
    shutil.rmtree(log)
    return outcome


def fuzz(seeds: range) -> Counter[str]:
    """How often each outcome was seen; every ninth log is appended to a sound one as well.

    Raises:
        AssertionError: as `check_one`, naming the seed.
    """
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            try:
                seen[check_one(Path(folder), seed)] += 1
                if seed % 9 == 0:
                    seen[check_appended(Path(folder), seed)] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, {FORMATS[seed % len(FORMATS)]}: {error!r}") from error
    return seen


if __name__ == "__main__":
    warnings.simplefilter("error")
    for outcome, count in fuzz(range(int(sys.argv[1]))).most_common():
        print(f"{count:6,}  {outcome}")
