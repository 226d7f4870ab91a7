"""Damaged logs are refused in one clear line or prepared correctly; nothing half-written is ever left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.prepare import prepare
from recsys.config import build_config
from tests.fuzz import FORMATS, fuzz, sound_log


@pytest.mark.parametrize("kind", FORMATS)
def test_the_unharmed_log_is_prepared(kind: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(sound_log(kind, np.random.default_rng(0)))
    data = {"path": str(tmp_path / "log"), "format": kind}
    tree = {"name": "sound", "prepared": str(tmp_path / "out"), "data": data}
    counts = prepare(build_config(tree, where="test")).manifest["counts"]
    assert counts["events"] == (10 if kind == "spotify-mpd" else 20)


def test_three_hundred_damaged_logs() -> None:
    seen = fuzz(range(300))
    assert 30 < seen["prepared"] < 270
    assert 5 < seen["appended"] < 30


@pytest.mark.slow
def test_ten_thousand_damaged_logs() -> None:
    seen = fuzz(range(300, 10_300))
    assert sum(seen.values()) - seen["appended"] - seen["appending refused"] == 10_000
