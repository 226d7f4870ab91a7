"""The README's nightly job on three days, the second of which brings a damaged file."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from recsys.cli import app
from recsys.errors import InputError
from recsys.mlflow_session import mlflow_session
from recsys.registry import CHAMPION
from tests.test_readme import blocks

DAY = 86_400
MODEL = {"name": "sasrec", "dim": 16, "layers": 1, "max_length": 12, "dropout": 0.0}
TRAINING = {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3, "threads": 1, "device": "cpu"}


def walks(day: int, n_items: int, users: range) -> bytes:
    """A day's log: people who walk round a ring of items, which has grown."""
    rng = np.random.default_rng(day)
    lines = ["user,item,at"]
    for user in users:
        start = int(rng.integers(n_items))
        lines += [f"u{user},i{(start + k) % n_items},{day * DAY + 60 * k}" for k in range(9)]
    return gzip.compress("\n".join([*lines, ""]).encode())


def run_night(night: str, more: str = "", first: bool = False) -> None:
    """The README's job, line by line; as in a shell with `set -e`, a line that fails ends it."""
    (script,) = blocks("nightly")
    assert script.startswith("set -eu\n")
    for line in script.splitlines():
        program, *arguments = shlex.split(line.replace("$night", f"runs/{night}"))
        if program != "recsys":
            continue
        if first and "--from" in arguments:
            place = arguments.index("--from")
            del arguments[place : place + 2]
        app([*arguments, *shlex.split(more if arguments[0] == "train" else "")], standalone_mode=False)


def champion(uri: str) -> tuple[str, dict[str, str]]:
    with mlflow_session(uri) as client:
        found = client.get_model_version_by_alias("shop", CHAMPION)
        return str(found.version), dict(found.tags)


def test_three_nights_end_with_the_right_champion(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    log = tmp_path / "log"
    log.mkdir()
    columns = {"sequence": "user", "item": "item", "time": "at"}
    tree = {
        "name": "shop",
        "data": {"path": "log", "events": "*.csv.gz", "columns": columns},
        "model": MODEL,
        "training": TRAINING,
        "tracking": {"report": False},
    }
    Path("shop.yaml").write_text(yaml.safe_dump(tree))
    manifest = Path("prepared/shop/manifest.json")

    (log / "day-1.csv.gz").write_bytes(walks(1, 15, range(80)))
    run_night("day-1", first=True)
    assert champion(tracking_uri)[0] == "1"
    prepared = manifest.read_bytes()

    day_2 = walks(2, 15, range(40, 120))
    (log / "day-2.csv.gz").write_bytes(day_2[: len(day_2) // 2])
    with pytest.raises(InputError, match=r"log/day-2\.csv\.gz"):
        run_night("day-2")
    assert (champion(tracking_uri)[0], manifest.read_bytes()) == ("1", prepared)
    assert not Path("runs/day-2").exists()

    (log / "day-1.csv.gz").unlink()  # archived; day 2 is sent again
    (log / "day-2.csv.gz").write_bytes(day_2)
    (log / "day-3.csv.gz").write_bytes(walks(3, 30, range(60, 200)))
    run_night("day-3")
    number, tags = champion(tracking_uri)
    stated = json.loads(manifest.read_text())
    assert (number, tags["data_digest"]) == ("2", stated["content_digest"])
    assert [each["name"] for each in stated["log"]] == ["day-1.csv.gz", "day-2.csv.gz", "day-3.csv.gz"]
    output = capsys.readouterr().out
    assert re.search(r"starting from models:/shop@champion .*: 15 of 30 items are known", output)
    assert re.search(r"version 2 of shop replaces champion 1: .* is better than .* in ndcg@10", output)

    run_night("day-3-again", more="model.dropout=0.9 training.epochs=1 training.learning_rate=0.1")
    assert champion(tracking_uri)[0] == "2"
    assert "kept champion version 2 of shop" in capsys.readouterr().out
