from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving.export import Wanted, export
from tests.export.world import read
from tests.postgres import PASSWORD, postgres_server
from tests.redis_server import redis_server


def test_an_unfinished_export_goes_on_and_another_one_begins_anew(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    out = tmp_path / "recs.parquet"
    export(recommender, data, out, Wanted(k=2))
    before = out.read_bytes()

    def stop(done: int, _: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(recommender, data, out, Wanted(k=3), block=5, progress=stop)
    assert out.read_bytes() == before
    work = tmp_path / ".recs.parquet.export"
    with (work / "journal").open("a") as journal:
        journal.write('{"part": 2, "rows"')  # torn by a crash
    (work / "00000000").write_bytes(b"torn too")
    assert export(recommender, data, out, Wanted(k=3), block=5).resumed == 5
    assert not work.exists() and len({row[0] for row in read(str(out))}) == len(read(str(out))) == 26
    with pytest.raises(KeyboardInterrupt):
        export(recommender, data, out, Wanted(k=3), block=5, progress=stop)
    assert export(recommender, data, out, Wanted(k=4), block=5).resumed == 0
    assert {len(items) for _, items in read(str(out))} == {4}


def test_an_export_may_be_stopped_again_and_again(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    out = tmp_path / "recs.jsonl"
    for until in (5, 10, 15):

        def stop(done: int, _: int, until: int = until) -> None:
            if done >= until:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(recommender, data, out, Wanted(k=3), block=5, progress=stop)
    assert export(recommender, data, out, Wanted(k=3), block=5).resumed == 15
    assert len(dict(read(str(out)))) == len(read(str(out))) == 26


def test_one_export_at_a_time(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    def again(done: int, _: int) -> None:
        if done:
            export(recommender, data, tmp_path / "recs.csv", Wanted(k=2))

    with pytest.raises(InputError, match=r"another export to .*recs.csv is running; wait for it"):
        export(recommender, data, tmp_path / "recs.csv", Wanted(k=2), progress=again)


def killed(folder: Path, out: str, kills: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.export.world", str(folder), out, str(kills), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_killed_at_random_moments_it_finishes_with_every_sequence_once(
    tmp_path: Path, folder: Path, data: PreparedData
) -> None:
    assert killed(folder, str(tmp_path / "recs.parquet"), 3)["met"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["recs.parquet", "recs.jsonl", "recs", "sqlite", "postgresql", "redis"])
def test_twenty_kills(
    tmp_path: Path, folder: Path, data: PreparedData, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with contextlib.ExitStack() as stack:
        servers = {"postgresql": postgres_server, "redis": redis_server}
        out = stack.enter_context(servers[place]()) if place in servers else str(tmp_path / place)
        counts = killed(folder, f"sqlite:///{out}" if place == "sqlite" else out, 20)
    print(place, counts)
    assert counts["met"] >= 10


def test_a_full_disk_is_named_and_harms_nothing(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    out, limit = tmp_path / "recs.jsonl", resource.RLIMIT_FSIZE
    export(recommender, data, out, Wanted(k=2))
    before, unlimited = out.read_bytes(), resource.getrlimit(limit)
    resource.setrlimit(limit, (4096, unlimited[1]))
    try:
        with pytest.raises(InputError) as error:
            export(recommender, data, out, Wanted(k=40), block=5)
    finally:
        resource.setrlimit(limit, unlimited)
    assert str(error.value) == (
        f"cannot write {out} (File too large); what stood there is unharmed, and the same command goes on "
        "where this one stopped"
    )
    assert out.read_bytes() == before
    assert export(recommender, data, out, Wanted(k=40), block=5).rows == len(read(str(out))) == 26
