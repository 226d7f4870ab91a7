"""Downloads from a real server of this test: whole, interrupted, changed, and not reachable at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep.download import DATASETS, Archive, Dataset, dataset_named, download
from data_prep.prepare import prepare
from recsys.cli import app
from recsys.config import load_config
from recsys.errors import InputError

ROOT = Path(__file__).parent.parent
RATINGS = b"1::10::5::9\n1::11::3::10\n1::12::3::11\n"


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name, text in members.items():
            content.writestr(f"ml/{name}", text)
        content.writestr("../outside", b"no")
    return buffer.getvalue()


class Site:
    """What a server has, how much of a file it sends before it hangs up, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.hang_up_after: int | None = None
        self.ranges: list[str | None] = []
        self.address = ""


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            content = state.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = len(content) if state.hang_up_after is None else start + state.hang_up_after
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[start:stop])

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def films(site: Site, checksum: str | None = None) -> Dataset:
    content = site.files.setdefault("ml.zip", archive(**{"ratings.dat": RATINGS, "README": b"terms"}))
    checksum = checksum or f"md5:{hashlib.md5(content).hexdigest()}"
    files = ("ml/ratings.dat", "ml/README")
    return Dataset("ml", (Archive(f"{site.address}/ml.zip", checksum, files),), "free", "configs/x.yaml")


def test_a_data_set_arrives_checked_and_once(tmp_path: Path, site: Site) -> None:
    seen: list[tuple[int, int]] = []
    dataset = films(site)
    folder, fresh = download(dataset, tmp_path, lambda done, total: seen.append((done, total)))
    assert fresh
    assert sorted(file.name for file in folder.iterdir()) == ["README", "ratings.dat"]
    assert (folder / "ratings.dat").read_bytes() == RATINGS
    assert seen[-1] == (len(site.files["ml.zip"]),) * 2
    assert [path.name for path in tmp_path.iterdir()] == ["ml"]  # nothing half-done is left
    assert download(dataset, tmp_path) == (folder, False)
    assert len(site.ranges) == 1


def test_an_interrupted_download_goes_on(tmp_path: Path, site: Site) -> None:
    dataset = films(site)
    site.hang_up_after = 50
    for _ in range(2):
        with pytest.raises(InputError, match=r"the connection ended after \d+ of \d+ bytes; run the comm"):
            download(dataset, tmp_path)
        assert not (tmp_path / "ml").exists()
    site.hang_up_after = None
    folder, _ = download(dataset, tmp_path)
    assert site.ranges == [None, "bytes=50-", "bytes=100-"]
    assert (folder / "ratings.dat").read_bytes() == RATINGS


def test_a_download_that_was_complete_but_not_renamed_is_taken(tmp_path: Path, site: Site) -> None:
    dataset = films(site)
    (tmp_path / ".ml.part").mkdir()
    (tmp_path / ".ml.part/ml.zip.unfinished").write_bytes(site.files["ml.zip"])
    assert download(dataset, tmp_path)[1]


def test_what_is_not_what_the_publisher_states_is_deleted(tmp_path: Path, site: Site) -> None:
    with pytest.raises(InputError, match=r"ml\.zip from http.* is damaged or was changed: its md5 is .*exp"):
        download(films(site, "md5:00"), tmp_path)
    assert not list((tmp_path / ".ml.part").iterdir())
    whole = gzip.compress(b"{}\n" * 100)
    reviews = Dataset("r", (Archive(f"{site.address}/r.json.gz"),), "free", "")
    flipped = whole[:12] + bytes([whole[12] ^ 0xFF]) + whole[13:]
    for bad in (whole[:-9], flipped, b"", gzip.compress(b"")):
        (tmp_path / ".r.part").mkdir(exist_ok=True)
        (tmp_path / ".r.part/r.json.gz").write_bytes(bad)
        with pytest.raises(InputError, match=r"r\.json\.gz from .*: it is no sound gzip file; it was delet"):
            download(reviews, tmp_path)
    site.files["r.json.gz"] = whole
    assert (download(reviews, tmp_path)[0] / "r.json.gz").read_bytes() == whole


def test_offline_it_says_what_to_fetch_and_where_to_put_it(tmp_path: Path, site: Site) -> None:
    content = archive(**{"ratings.dat": RATINGS, "README": b""})
    unreachable = Archive(
        "http://127.0.0.1:9/ml.zip", f"md5:{hashlib.md5(content).hexdigest()}", ("ml/ratings.dat",)
    )
    dataset = Dataset("ml", (unreachable,), "free", "")
    with pytest.raises(InputError) as caught:
        download(dataset, tmp_path)
    place = tmp_path / ".ml.part/ml.zip"
    assert f"fetch the file by hand, put it at {place} and run the command again" in str(caught.value)
    assert "cannot fetch http://127.0.0.1:9/ml.zip: [Errno 111] Connection refused" in str(caught.value)
    place.write_bytes(content)
    assert (download(dataset, tmp_path)[0] / "ratings.dat").read_bytes() == RATINGS
    gone = Dataset("gone", (Archive(f"{site.address}/gone.zip"),), "free", "")
    with pytest.raises(InputError, match="the server answers 404 Not Found"):
        download(gone, tmp_path)


def test_a_folder_of_something_else_and_another_archive_are_refused(tmp_path: Path, site: Site) -> None:
    (tmp_path / "ml").mkdir()
    with pytest.raises(InputError, match=r"ml is there, but not all of ratings\.dat, README; delete it"):
        download(films(site), tmp_path)
    site.files["other.zip"] = archive(other=b"")
    checksum = f"md5:{hashlib.md5(site.files['other.zip']).hexdigest()}"
    other = Dataset("o", (Archive(f"{site.address}/other.zip", checksum, ("ml/ratings.dat",)),), "free", "")
    with pytest.raises(InputError, match=r"other\.zip is not the expected archive .*delete it and run"):
        download(other, tmp_path)


def test_every_data_set_has_a_configuration_that_reads_its_folder(tmp_path: Path) -> None:
    for dataset in DATASETS.values():
        file, *overrides = dataset.config.split()
        config = load_config(ROOT / file, overrides)
        assert config.data.path == f"data/{dataset.folder}"
    with pytest.raises(InputError, match=r"data set `ml1m` is unknown; did you mean `ml-1m`\?; known: ml"):
        dataset_named("ml1m")


def test_the_next_command_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    for name in ("u.data", "u.item", "README"):
        (folder / name).touch()
    app(["download", "ml-100k", "--out", str(tmp_path)], standalone_mode=False)
    command = f"recsys prepare configs/ml-100k.yaml data.format=movielens data.path={folder}"
    assert command in capsys.readouterr().out.replace("\n", " ")


def test_counts_other_than_the_published_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_bytes(RATINGS)
    overrides = [f"data.path={tmp_path}", f"prepared={tmp_path / 'out'}", "clean={}", "data.item_columns={}"]
    config = load_config(ROOT / "configs/ml-1m.yaml", overrides)
    with pytest.raises(
        InputError,
        match=r"gives 3 events_read instead of 1,000,209, 1 sequences .*set expect={}",
    ):
        prepare(config)
    assert not (tmp_path / "out").exists()
    manifest = prepare(load_config(ROOT / "configs/ml-1m.yaml", [*overrides, "expect={events: 3}"])).manifest
    assert manifest["counts"]["events"] == 3
    with pytest.raises(InputError, match=r"gives 3 events instead of 4 \(`expect`\)"):  # reused or not
        prepare(load_config(ROOT / "configs/ml-1m.yaml", [*overrides, "expect={events: 4}"]))
