"""Damaged logs are refused in one clear line or prepared correctly; nothing half-written is ever left."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.prepare import prepare
from recsys.config import build_config
from recsys.dataset import PreparedData
from tests.fuzz import FORMATS, PLAIN, fuzz, fuzz_config, plain_reading, sound_log


@pytest.mark.parametrize("kind", FORMATS)
def test_the_unharmed_log_is_prepared(kind: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(sound_log(kind, np.random.default_rng(0)))
    data = {"path": str(tmp_path / "log"), "format": kind}
    tree = {"name": "sound", "prepared": str(tmp_path / "out"), "data": data}
    counts = prepare(build_config(tree, where="test")).manifest["counts"]
    assert counts["events"] == (10 if kind == "spotify-mpd" else 20)


@pytest.mark.parametrize("kind", PLAIN)
def test_lines_lost_doubled_and_moved_give_what_a_plain_reading_gives(kind: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(len(kind))
    content = sound_log(kind, generator)
    if PLAIN[kind] == "\t":  # without quoting, a quote is a character
        content = content.replace(b"\t3\t", b'\t"3\t').replace(b"\t4\t", b'\t4"\t')
    header = int(kind in ("csv", "tsv", "atomic"))
    first, lines = content.splitlines()[:header], content.splitlines()[header:]
    lines = [lines[k] for k in generator.integers(len(lines), size=2 * len(lines))]
    content = b"\n".join([*first, *lines, b""])
    (tmp_path / "log").write_bytes(content)
    data = PreparedData.load(prepare(fuzz_config(kind, tmp_path / "log", tmp_path / "out")).path)
    items = [str(item) for item in data.vocabulary.decode(data.sequences.values)]
    bounds = pairwise(data.sequences.offsets.tolist())
    found = {
        name: items[start:stop] for name, (start, stop) in zip(data.ids.to_pylist(), bounds, strict=True)
    }
    assert found == plain_reading(kind, content, header)


def test_three_hundred_damaged_logs() -> None:
    seen = fuzz(range(300))
    assert 30 < seen["prepared"] < 270
    assert 5 < seen["appended"] < 30


@pytest.mark.slow
def test_ten_thousand_damaged_logs() -> None:
    seen = fuzz(range(300, 10_300))
    assert 1_000 < seen["prepared"] < 9_000
    assert seen["appended"] > 300
