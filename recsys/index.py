"""The index of a bundle: built to an asked-for recall, measured, written beside the weights, loaded again.

    index/index.json             what was built and what it reaches, see `IndexInfo`
    index/forest-HASH.ann        Annoy's trees
    index/projection-HASH.npy    only for an index in fewer dimensions than the model's

index.json names the other two, and replacing it is the one step that puts a new index in force.

Shapes: `B` queries, `V` items, `D` width of the model, `d` width of the index.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from annoy import AnnoyIndex as AnnoyForest
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.files import draft_file, put_in_place, written_file
from recsys.models.protocol import Encoder
from recsys.schema import file_hash
from recsys.search import AnnoyIndex, ExactIndex, ItemIndex, augmented
from recsys.sequences import Ragged

Backend = Literal["annoy", "exact", "auto"]

INDEX_FOLDER = "index"
INDEX_FILE = "index.json"
METRIC: Literal["angular"] = "angular"
TREES = (16, 32, 64, 128)
MEASURED_QUERIES = 200
TIMED_QUERIES = 50


@dataclass(frozen=True)
class IndexInfo:
    """The sidecar index.json.

    Attributes:
        model_version: of the bundle that it was built for.
        backend: what to search with unless told otherwise; `auto` is `faster`.
        metric: Annoy's metric, over augmented vectors.
        dimension: width d of the vectors before they were augmented.
        count: items V.
        forest: file of the trees, in this folder.
        forest_sha256: its hash.
        projection: file of the (D, d) projection, or None in full width.
        projection_sha256: its hash.
        trees: number of trees.
        search_k: nodes to inspect for `k` answers.
        seed: of the trees and of the choice of queries.
        k: what recall and times were measured for.
        asked_recall: share of the true k best that was asked for.
        recall: the share that was measured, on `queries` histories.
        queries: how many.
        annoy_ms: median milliseconds of one query through Annoy.
        exact_ms: median milliseconds of one exact query.
        faster: the faster of the two where it was built.
    """

    model_version: str
    backend: Backend
    metric: Literal["angular"]
    dimension: int
    count: int
    forest: str
    forest_sha256: str
    projection: str | None
    projection_sha256: str | None
    trees: int
    search_k: int
    seed: int
    k: int
    asked_recall: float
    recall: float
    queries: int
    annoy_ms: float
    exact_ms: float
    faster: Literal["annoy", "exact"]


def build_index(
    bundle: Bundle,
    queries: Ragged,
    *,
    recall: float = 0.99,
    backend: Backend = "annoy",
    dim: int | None = None,
    k: int = 100,
    seed: int = 0,
) -> IndexInfo:
    """Build, measure and write the index of a bundle; an older one is replaced.

    The fewest nodes that reach the recall are inspected, with as many trees as still make them fewer.

    Args:
        bundle: of an encoder.
        queries: histories of item indices, such as those of the validation part; a few hundred are enough.
        recall: share of the true `k` best items to find, in (0, 1].
        backend: what the recommender is to search with by default.
        dim: keep the index in so many dimensions (truncated SVD of the item table); scores stay exact.
        k: answers that recall is measured for; at most V.
        seed: of the trees and of the choice of queries.

    Raises:
        InputError: the recall is not in (0, 1] or out of reach, the model counts and needs no index, or `dim`
            is not in 1..D.
    """
    if not 0 < recall <= 1:
        raise InputError(f"--recall {recall} is no share of the best items; give more than 0 and at most 1")
    table, vectors = _table_and_queries(bundle, queries, seed)
    if dim is not None and not 1 <= dim <= table.shape[1]:
        raise InputError(f"--dim {dim} does not fit vectors of {table.shape[1]} dimensions; give 1 to all")
    projection = None if dim is None else _projection(table, dim)
    k = min(k, len(table))
    index, reached = _tuned(ExactIndex(table), vectors, projection, recall=recall, k=k, seed=seed)
    if reached < recall:
        remedy = "--recall less, or use exact search" if dim is None else "--dim more, or --recall less"
        raise InputError(
            f"an index in {dim or 'all'} of {table.shape[1]} dimensions reaches recall@{k} {reached:.3f}, "
            f"but {recall} was asked for; give {remedy}"
        )
    return _written(bundle, index, vectors, backend=backend, seed=seed, asked_recall=recall, recall=reached)


def read_index_info(bundle: Bundle) -> IndexInfo | None:
    """The sidecar of a bundle's index, or None where there is no index.

    Raises:
        InputError: it cannot be read, names files outside its folder, or the index is of another model.
    """
    file = bundle.folder / INDEX_FOLDER / INDEX_FILE
    if not file.is_file():
        return None
    try:
        info = IndexInfo(**json.loads(file.read_text(encoding="utf-8")))
        for name in (info.forest, info.projection or info.forest):
            if Path(name).name != name:
                raise ValueError(f"`{name}` is no bare file name")
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); build it anew with `recsys index`") from error
    if (info.model_version, info.count) != (bundle.model_version, len(bundle.vocabulary)):
        raise InputError(
            f"{file} is of model {info.model_version} with {info.count} items, but the bundle is "
            f"{bundle.model_version} with {len(bundle.vocabulary)}; build the index anew with `recsys index`"
        )
    return info


def load_index(
    bundle: Bundle, table: NDArray[np.float32], backend: Backend | None = None, device: str = "cpu"
) -> ItemIndex:
    """The index to search with.

    Args:
        bundle: of an encoder.
        table: (V, D) its item vectors.
        backend: default: what the sidecar says. `auto`: the one that was faster when built. Without an index
            both mean exact search.
        device: where exact search computes.

    Raises:
        InputError: `annoy` is asked for and there is no index, or a file of it is missing or was changed.
    """
    exact = ExactIndex(table, device)
    if backend == "exact":
        return exact
    info = read_index_info(bundle)
    if info is None:
        if backend == "annoy":
            raise InputError(
                f"{bundle.folder} has no index for backend `annoy`; build one with "
                f"`recsys index {bundle.folder}`, or ask for backend `exact`"
            )
        return exact
    backend = backend or info.backend
    if (info.faster if backend == "auto" else backend) == "exact":
        return exact
    folder = bundle.folder / INDEX_FOLDER
    forest = AnnoyForest(info.dimension + 1, METRIC)
    forest.load(str(_checked(folder / info.forest, info.forest_sha256)))
    projection = None
    if info.projection is not None:
        file = _checked(folder / info.projection, info.projection_sha256)
        projection = np.load(file, allow_pickle=False)
    return AnnoyIndex(forest, exact, search_k=info.search_k, recall_k=info.k, projection=projection)


def _table_and_queries(
    bundle: Bundle, queries: Ragged, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The item table, and vectors of a few real histories (of single items where there are none)."""
    if not isinstance(bundle.model, Encoder):
        name = bundle.config.model.name
        raise InputError(f"model `{name}` counts and needs no index; use the bundle as it is")
    usable = queries.take(np.flatnonzero(queries.lengths))
    if not len(usable):
        usable = Ragged.of([[index] for index in range(1, len(bundle.vocabulary) + 1)])
    count = min(MEASURED_QUERIES, len(usable))
    chosen = np.random.default_rng(seed).choice(len(usable), size=count, replace=False)
    return item_vectors(bundle.model), encode_histories(bundle.model, usable.take(np.sort(chosen)))


def _projection(table: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """(D, d) right singular vectors: among all d dimensions they keep most of the inner products."""
    _, directions = np.linalg.eigh(table.astype(np.float64).T @ table.astype(np.float64))
    return np.ascontiguousarray(directions[:, ::-1][:, :dim], dtype=np.float32)


def _tuned(
    exact: ExactIndex,
    vectors: NDArray[np.float32],
    projection: NDArray[np.float32] | None,
    *,
    recall: float,
    k: int,
    seed: int,
) -> tuple[AnnoyIndex, float]:
    """An index and the recall that it reaches; below `recall` only where none reaches it."""
    least = exact.search(vectors, k)[1][:, -1:]  # what an item must score to be among the true k best
    inputs = augmented(exact.table if projection is None else exact.table @ projection)
    best: tuple[AnnoyIndex, float] | None = None
    for trees in TREES:
        forest = _grown(inputs, trees, seed)
        limit = trees * len(inputs)  # so many nodes are every leaf of every tree
        search_k = k
        while True:
            index = AnnoyIndex(forest, exact, search_k=search_k, recall_k=k, projection=projection)
            reached = float((index.search_forest(vectors, k)[1] >= least).mean())
            if reached >= recall or search_k >= limit:
                break
            search_k = min(search_k * 3 // 2 + 1, limit)
        if best is not None and (min(reached, recall), -search_k) <= (
            min(best[1], recall),
            -best[0].search_k,
        ):
            break
        best = (index, reached)
    assert best is not None
    return best


def _written(
    bundle: Bundle,
    index: AnnoyIndex,
    vectors: NDArray[np.float32],
    *,
    backend: Backend,
    seed: int,
    asked_recall: float,
    recall: float,
) -> IndexInfo:
    """Time the index beside exact search, write it into the bundle, and put it in force."""
    annoy_ms, exact_ms = (_median_ms(each, vectors, index.recall_k) for each in (index, index.exact))
    folder = bundle.folder / INDEX_FOLDER
    folder.mkdir(exist_ok=True)
    forest = _stored(folder, "forest-{}.ann", lambda draft: index.forest.save(str(draft)))
    projection = None
    if (matrix := index.projection) is not None:
        projection = _stored(folder, "projection-{}.npy", lambda draft: _save_array(draft, matrix))
    count, width = index.exact.table.shape
    info = IndexInfo(
        model_version=bundle.model_version,
        backend=backend,
        metric=METRIC,
        dimension=width if matrix is None else matrix.shape[1],
        count=count,
        forest=forest[0],
        forest_sha256=forest[1],
        projection=projection[0] if projection else None,
        projection_sha256=projection[1] if projection else None,
        trees=index.forest.get_n_trees(),
        search_k=index.search_k,
        seed=seed,
        k=index.recall_k,
        asked_recall=asked_recall,
        recall=recall,
        queries=len(vectors),
        annoy_ms=annoy_ms,
        exact_ms=exact_ms,
        faster="annoy" if annoy_ms < exact_ms else "exact",
    )
    _put_in_force(folder, info)
    return info


def _grown(inputs: NDArray[np.float32], trees: int, seed: int) -> AnnoyForest:
    forest = AnnoyForest(inputs.shape[1], METRIC)
    forest.set_seed(seed)
    for row, vector in enumerate(inputs.tolist()):
        forest.add_item(row, vector)
    forest.build(trees, n_jobs=1)  # several threads would make other trees each time
    return forest


def _median_ms(index: ItemIndex, vectors: NDArray[np.float32], k: int) -> float:
    times = []
    for row in range(min(len(vectors), TIMED_QUERIES)):
        start = time.perf_counter()
        index.search(vectors[row : row + 1], k)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 4)


def _stored(folder: Path, pattern: str, save: Callable[[Path], object]) -> tuple[str, str]:
    """Name and hash of a file that `save` wrote; its name holds the hash."""
    draft = draft_file(folder)
    save(draft)
    digest = file_hash(draft)
    name = pattern.format(digest[:12])
    put_in_place(draft, folder / name)
    return name, digest


def _save_array(file: Path, array: NDArray[np.float32]) -> None:
    with file.open("wb") as stream:  # given a name, NumPy would add a suffix to it
        np.save(stream, array, allow_pickle=False)


def _put_in_force(folder: Path, info: IndexInfo) -> None:
    """Replace index.json in one step, then remove what it does not name."""
    with written_file(folder / INDEX_FILE) as draft:
        draft.write_text(json.dumps(asdict(info), indent=2), encoding="utf-8")
    for file in folder.iterdir():
        if file.name not in (INDEX_FILE, info.forest, info.projection):
            file.unlink()


def _checked(file: Path, expected: str | None) -> Path:
    if not file.is_file():
        raise InputError(f"{file} is missing; build the index anew with `recsys index`")
    if file_hash(file) != expected:
        raise InputError(
            f"{file} was changed or damaged since it was built (its SHA-256 is not the one in {INDEX_FILE}); "
            "build the index anew with `recsys index`"
        )
    return file
