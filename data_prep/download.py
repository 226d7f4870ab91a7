"""Public data sets from their publishers to a folder: resumed, checked, and complete or not there at all.

Nothing is mirrored or redistributed. Licences stay with the publishers: every data set names its terms.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import InputError
from recsys.files import fsync

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all (0 where the server does not say)."""

GROUPLENS = "https://files.grouplens.org/datasets"
AMAZON = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        url: where its publisher has it.
        checksum: `md5:...` or `sha256:...` as stated by the publisher, or None where there is none: then the
            gzip's own check sums count.
        members: of a zip archive, the files to take out of it; empty for a file that stays as it is.
    """

    url: str
    checksum: str | None = None
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what it leaves in the folder."""
        return tuple(member.rpartition("/")[2] for member in self.members) or (self.name,)


@dataclass(frozen=True)
class Dataset:
    """A data set of one or more archives; `folder` is its folder's name under data/."""

    folder: str
    archives: tuple[Archive, ...]
    terms: str
    config: str


_GROUPLENS_TERMS = "for research, not to be redistributed; see the README in it"
_AMAZON_TERMS = "for research; cite McAuley et al. 2015"


def _movielens(name: str, md5: str, *members: str) -> Dataset:
    members = tuple(f"{name}/{member}" for member in members)
    archive = Archive(f"{GROUPLENS}/movielens/{name}.zip", f"md5:{md5}", members)
    return Dataset(name, (archive,), _GROUPLENS_TERMS, f"configs/{name}.yaml")


def _amazon(folder: str, category: str, counts: tuple[int, int, int] | None = None) -> Dataset:
    """One category, prepared as Beauty is, with its own name and counts (S3-Rec's; Zhou et al. 2020)."""
    archives = (
        Archive(f"{AMAZON}/reviews_{category}_5.json.gz"),
        Archive(f"{AMAZON}/meta_{category}.json.gz"),
    )
    config = ["configs/amazon-beauty-2014.yaml"]
    if counts:
        expected = zip(("sequences", "items", "events"), counts, strict=True)
        config += [
            f"name={folder}",
            f"data.path=data/{folder}",
            *(f"expect.{key}={n}" for key, n in expected),
        ]
    return Dataset(folder, archives, _AMAZON_TERMS, " ".join(config))


DATASETS = {
    "ml-100k": Dataset(
        "ml-100k",
        _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723", "u.data", "u.item", "README").archives,
        _GROUPLENS_TERMS,
        "configs/ml-100k.yaml data.format=movielens",
    ),
    "ml-1m": _movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906", "ratings.dat", "movies.dat", "README"),
    "ml-20m": _movielens(
        "ml-20m", "cd245b17a1ae2cc31bb14903e1204af3", "ratings.csv", "movies.csv", "README.txt"
    ),
    "amazon-beauty": _amazon("amazon-beauty", "Beauty"),
    "amazon-sports": _amazon("amazon-sports", "Sports_and_Outdoors", (35_598, 18_357, 296_337)),
    "amazon-toys": _amazon("amazon-toys", "Toys_and_Games", (19_412, 11_924, 167_597)),
    "lastfm": Dataset(
        "lastfm-2k",
        (
            Archive(
                f"{GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
                "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
                ("user_taggedartists-timestamps.dat", "artists.dat", "readme.txt"),
            ),
        ),
        _GROUPLENS_TERMS,
        "configs/lastfm-2k.yaml",
    ),
}
"""Name -> where it comes from."""


def dataset_named(name: str) -> Dataset:
    """The data set of this name.

    Raises:
        InputError: there is none.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise InputError(f"data set `{name}` is unknown{hint}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def download(
    dataset: Dataset, root: Path, progress: Progress = lambda _done, _total: None
) -> tuple[Path, bool]:
    """Bring a data set into its folder under `root`, which appears when everything is there and checked.

    An archive that a person put into `root/.NAME.part/` is taken as it is; a part of one is continued.

    Returns:
        The folder, and whether anything was fetched or unpacked.

    Raises:
        InputError: a file cannot be fetched, or is not what its publisher states.
    """
    folder = root / dataset.folder
    wanted = [name for archive in dataset.archives for name in archive.files]
    if all((folder / name).is_file() for name in wanted):
        return folder, False
    if folder.exists():
        raise InputError(f"{folder} is there, but not all of {', '.join(wanted)}; delete it, or choose --out")
    parts = root / f".{dataset.folder}.part"
    parts.mkdir(parents=True, exist_ok=True)
    for archive in dataset.archives:
        if not (parts / archive.name).is_file():
            _fetch(archive, parts, progress)
        _check(archive, parts / archive.name)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{dataset.folder}.") as fresh:
        unpacked = Path(fresh) / "data"
        unpacked.mkdir()
        for archive in dataset.archives:
            _unpack(archive, parts / archive.name, unpacked)
        for path in (*unpacked.iterdir(), unpacked):
            fsync(path)
        unpacked.rename(folder)
    fsync(root)
    shutil.rmtree(parts)
    return folder, True


def _fetch(archive: Archive, parts: Path, progress: Progress) -> None:
    """Fetch into `NAME.unfinished`, going on where an earlier attempt ended, and rename."""
    part = parts / f"{archive.name}.unfinished"
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "recsys"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            there = there if answer.status == 206 else 0
            length = int(answer.headers.get("Content-Length") or 0)
            total = there + length if length else 0
            with part.open("ab" if there else "wb") as file:
                for block in _blocks(answer):
                    there += file.write(block)
                    progress(there, total)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and there:  # all of it was there already
            part.rename(parts / archive.name)
            return
        raise _by_hand(archive, parts, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _by_hand(archive, parts, str(reason)) from error
    if total and there < total:
        raise _by_hand(archive, parts, f"the connection ended after {there:,} of {total:,} bytes")
    part.rename(parts / archive.name)


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := answer.read(_CHUNK):
        yield block


def _by_hand(archive: Archive, parts: Path, reason: str) -> InputError:
    return InputError(
        f"cannot fetch {archive.url}: {reason}; run the command again to go on, or fetch the file by hand, "
        f"put it at {parts / archive.name} and run the command again"
    )


def _check(archive: Archive, file: Path) -> None:
    """Refuse, and delete, an archive that is not what its publisher states."""
    kind, _, expected = (archive.checksum or "").partition(":")
    if kind:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        sound, detail = found == expected, f"its {kind} is {found}, expected {expected}"
    else:
        sound, detail = _is_sound_gzip(file), "it is no sound gzip file"
    if not sound:
        file.unlink()
        raise InputError(
            f"{archive.name} from {archive.url} is damaged or was changed: {detail}; it was deleted: run the "
            "command again"
        )


def _is_sound_gzip(file: Path) -> bool:
    try:
        with gzip.open(file) as stream:
            content = stream.read(1)
            while stream.read(_CHUNK):
                pass
    except (EOFError, OSError, zlib.error):
        return False
    return bool(content)


def _unpack(archive: Archive, file: Path, folder: Path) -> None:
    """Take the named members out, by their own names, wherever the archive would have put them."""
    try:
        if not archive.members:
            shutil.copyfile(file, folder / archive.name)
            return
        with zipfile.ZipFile(file) as content:
            for member, name in zip(archive.members, archive.files, strict=True):
                with content.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    except OSError as error:
        raise InputError(
            f"{file} cannot be unpacked: {error}; make room and run the command again"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise InputError(
            f"{file} is not the expected archive ({error}); delete it and run the command again"
        ) from error
