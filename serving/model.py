"""The model that answers, and how the next one takes its place: loaded beside it, checked, swapped in."""

from __future__ import annotations

import ctypes
import gc
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recsys.engines import Engine
from recsys.errors import InputError
from recsys.index import Backend
from recsys.models import ANSWERS_SEEN
from recsys.recommender import Recommender
from recsys.search import AnnoyIndex
from serving.watched import Seen, Watched, stamp

TESTED = 16  # items that the self-test asks for
LONGEST_DRAIN = 30.0  # seconds to wait for the last answers of a former model
LEAST_SHARE = 0.5  # of the exact answers that the index must find in the self-test


class Model(Watched[Recommender]):
    """The recommender in force, and the next one as soon as its source offers one."""

    def __init__(
        self, source: Callable[[], Path], backend: Backend | None = None, engine: Engine = "eager"
    ) -> None:
        """Load the first.

        Args:
            source: the folder of the bundle to serve, asked anew at each look: always the same one, whose
                content may change, or what an alias of a registry names now.
            backend: as for `Recommender.load`.
            engine: as for `Recommender.load`.

        Raises:
            InputError: the first cannot be loaded, or fails its check.
        """
        self._source = source
        self._backend: Backend | None = backend
        self._engine: Engine = engine
        self._folder = Path()
        super().__init__("model", self._look_at_source, self._load_checked)

    def refresh(self) -> bool:
        """As `Watched.refresh`; when nobody asks the former model any more, its memory is given back."""
        former = weakref.ref(self.value)
        swapped = super().refresh()
        if swapped:
            deadline = time.monotonic() + LONGEST_DRAIN
            while former() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            gc.collect()
            _give_memory_back()
        return swapped

    def _look_at_source(self) -> Seen:
        self._folder = self._source()
        return stamp(self._folder)

    def _load_checked(self) -> Recommender:
        return load_checked(self._folder, self._backend, self._engine)


def load_checked(folder: Path, backend: Backend | None = None, engine: Engine = "eager") -> Recommender:
    """A recommender from a copy of a bundle.

    Raises:
        InputError: it cannot be loaded, or does not answer as it should.
    """
    with copied(folder) as copy:
        recommender = Recommender.load(copy, backend, engine=engine)
        check(recommender)
        return recommender


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a folder to load from, of which what is in memory stays as it was checked.

    Annoy maps its file into memory: if it were the folder's own, whoever truncates that would end the
    process. The copy has no name any more once the block ends.

    Raises:
        InputError: it cannot be read; one of the block's own names the folder, not the copy.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-serve-") as draft:
        copy = Path(draft) / "copy"
        try:
            shutil.copytree(folder, copy)
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(folder))) from error
        except (OSError, shutil.Error) as error:
            raise InputError(f"{folder} cannot be read ({error}); copy it anew") from error


def check(recommender: Recommender) -> None:
    """Ask a loaded model a few questions whose answers can be judged.

    What the first question of its kind makes ready, such as vectors of length 1 or titles in lower case, the
    first client need not wait for.

    Raises:
        InputError: it does not answer, or its index does not find what exact search finds.
    """
    where = recommender.bundle.folder
    rows = np.unique(np.linspace(1, len(recommender.vocabulary), TESTED).astype(int))
    answers_seen = recommender.bundle.config.model.name in ANSWERS_SEEN
    answer = recommender.recommend(recommender.vocabulary.decode(rows), exclude_seen=not answers_seen)
    if not answer.items and len(recommender.vocabulary) > len(rows):
        raise InputError(
            f"{where} answers a history of {len(rows)} items with nothing; train the model again"
        )
    recommender.similar(recommender.vocabulary.decode(rows[:1])[0])
    recommender.search_items("")
    index = recommender.index
    if not isinstance(index, AnnoyIndex):
        return
    info = recommender.index_info
    if info is not None and info.recall < info.asked_recall:
        raise InputError(
            f"the index of {where} reaches recall@{info.k} {info.recall}, but {info.asked_recall} was asked "
            "for; build it anew with `recsys index`"
        )
    queries = index.exact.table[rows - 1]
    k = min(10, len(recommender.vocabulary))
    least = index.exact.search(queries, k)[1][:, -1:]
    share = float((index.search_forest(queries, k)[1] >= least).mean())
    if share < LEAST_SHARE:
        raise InputError(
            f"the index of {where} finds {share:.0%} of what exact search finds for {len(rows)} items; "
            "build it anew with `recsys index`"
        )


def _give_memory_back() -> None:
    """Glibc keeps freed memory for itself unless told otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
