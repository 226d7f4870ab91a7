from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.index import _table_and_queries, build_index, load_index, read_index_info
from recsys.models.protocol import Encoder
from recsys.registry import _download
from recsys.search import COARSE_ANSWERS, COARSE_QUERIES, AnnoyIndex, ExactIndex, augmented, rank
from recsys.sequences import Ragged
from recsys.topk import top_k
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring

N_ITEMS = 900


def vectors_of(bundle: Bundle, histories: Ragged) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert isinstance(bundle.model, Encoder)
    return item_vectors(bundle.model), encode_histories(bundle.model, histories)


def brute_force(
    table: NDArray[np.float32], query: NDArray[np.float32], k: int, banned: set[int]
) -> tuple[list[int], list[float]]:
    scores = (table.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    order = sorted((-score, index) for index, score in enumerate(scores, start=1) if index not in banned)
    return [index for _, index in order[:k]], [float(-score) for score, _ in order[:k]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("index")
    data = prepared(folder / "data", ring(N_ITEMS, 300), N_ITEMS)
    bundle = encoder_bundle(folder / "bundle", data)
    build_index(bundle, data.sequences)
    return bundle


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.floats(0.0, 50.0))
@settings(max_examples=60, deadline=None)
def test_augmented_angles_order_items_by_inner_product(
    seed: int, size: int, width: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(size, width)) * rng.exponential(spread, size=(size, 1))).astype(np.float32)
    query = rng.normal(size=width).astype(np.float32)
    long = augmented(table).astype(np.float64)
    norms = np.linalg.norm(long, axis=1)
    assert np.allclose(norms, norms.max(), rtol=1e-5)
    products = table.astype(np.float64) @ query
    cosines = long @ np.append(query, 0) / np.maximum(norms * np.linalg.norm(query), 1e-12)
    order = np.argsort(-cosines, kind="stable")
    slack = 1e-5 * max(np.abs(products).max(), norms.max() * float(np.linalg.norm(query)))
    assert np.all(np.diff(products[order]) <= slack), "the angle's order is the product's, up to rounding"


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 70), st.booleans())
@settings(max_examples=60, deadline=None)
def test_exact_search_is_brute_force_whatever_is_filtered(seed: int, size: int, k: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 2, size=(size, 3)).astype(np.float32) if ties else rng.normal(size=(size, 3))
    table = table.astype(np.float32)
    queries = rng.normal(size=(4, 3)).astype(np.float32)
    allowed = rng.random(size) < 0.7
    exclude = Ragged.of([rng.integers(1, size + 1, size=rng.integers(4)) for _ in queries])
    indices, scores = ExactIndex(table).search(queries, k, allowed=allowed, exclude=exclude)
    for row, query in enumerate(queries):
        banned = {int(index) for index in exclude[row]} | {int(at) + 1 for at in np.flatnonzero(~allowed)}
        right, right_scores = brute_force(table, query, k, banned)
        assert [int(index) for index in indices[row] if index] == right
        assert np.allclose(scores[row][: len(right)], right_scores, rtol=1e-6, atol=1e-7)
        assert np.all(np.isneginf(scores[row][len(right) :]))


def test_equal_scores_stand_in_the_order_of_the_items() -> None:
    table = np.ones((5000, 4), np.float32)
    table[[17, 4000]] = 2
    indices, _ = ExactIndex(table).search(np.ones((2, 4), np.float32), 5)
    assert indices.tolist() == [[18, 4001, 1, 2, 3]] * 2


@given(st.integers(0, 2**31), st.integers(1, 700), st.integers(1, 40), st.booleans())
def test_the_largest_scores_are_those_of_topk(seed: int, columns: int, count: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((3, columns), generator=generator)
    scores = scores.round() if ties else scores
    scores[0, ::2] = -torch.inf
    count = min(count, columns)
    values, found = top_k(scores, count)
    assert torch.equal(values, scores.topk(count).values)
    assert torch.equal(scores.gather(1, found), values)
    assert all(len(set(row.tolist())) == count for row in found)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table, queries = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (300, 50))
    exclude = Ragged.of([[row + 1, row + 2] for row in range(50)])
    whole = ExactIndex(table).search(queries, 7, exclude=exclude)
    monkeypatch.setattr("recsys.search.CPU_SCORES_PER_BLOCK", 900)
    monkeypatch.setattr("recsys.search.VALUES_PER_BLOCK", 900)
    parts = ExactIndex(table).search(queries, 7, exclude=exclude)
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])


@pytest.mark.parametrize("case", ["apart", "alike", "lost by the table", "lost by the queries", "far below"])
@pytest.mark.parametrize("k", [1, COARSE_ANSWERS])
def test_rounded_products_change_nothing(monkeypatch: pytest.MonkeyPatch, case: str, k: int) -> None:
    rng = np.random.default_rng(0)
    queries = rng.integers(-8, 9, size=(COARSE_QUERIES, 8)).astype(np.float32)  # exact in bfloat16
    table = rng.integers(-8, 9, size=(3000, 8)).astype(np.float32)
    if case == "alike":
        table = (np.repeat(table[:15], 200, axis=0) + 1e-4 * rng.normal(size=table.shape)).astype(np.float32)
    elif case == "lost by the table":  # products are small numbers again, which lose nothing
        table, queries = 1024 + table, queries - np.roll(queries, 1, axis=1)
    elif case == "lost by the queries":
        table, queries = table - np.roll(table, 1, axis=1), 1024 + queries
    elif case == "far below":
        table -= 100 * np.abs(queries).max()
    allowed = rng.random(len(table)) < 0.8
    exclude = Ragged.of([[row + 1, row + 2] for row in range(len(queries))])
    found = []
    for rounded in (True, False):
        monkeypatch.setattr("recsys.search.uses_bf16", lambda *_, rounded=rounded: rounded)
        index = ExactIndex(table)
        found.append(index.search(queries, k, allowed=allowed, exclude=exclude))
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])


def test_annoy_reaches_the_recall_that_the_sidecar_claims(world: Bundle) -> None:
    info = read_index_info(world)
    assert info is not None
    assert info.recall >= info.asked_recall == 0.99 and info.k == 100 and info.count == N_ITEMS
    assert info.search_k < N_ITEMS * info.trees, "it does not walk through everything"
    table, tuned = _table_and_queries(world, world.prepared_data().sequences, info.seed)
    _, queries = vectors_of(world, ring(N_ITEMS, 200, seed=9))  # histories it was not tuned on
    annoy, exact = load_index(world, table), load_index(world, table, backend="exact")
    assert isinstance(annoy, AnnoyIndex) and isinstance(exact, ExactIndex)

    def recalls(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        answers = annoy.search_forest(vectors, 100)[0], exact.search(vectors, 100)[0]
        return np.array([len(np.intersect1d(*each)) for each in zip(*answers, strict=True)]) / 100

    claimed, others = recalls(tuned), recalls(queries)
    assert len(claimed) == info.queries and claimed.mean() == pytest.approx(info.recall, abs=1e-12)
    # The claim is a mean over a sample, and so is what others see: three standard errors of the difference.
    error = np.sqrt(claimed.var() / len(claimed) + others.var() / len(others))
    assert 0 < error < 0.001 and others.mean() >= info.recall - 3 * error
    found, scores = annoy.search_forest(queries, 100)
    right, right_scores = exact.search(queries, 100)
    for row in range(len(queries)):  # what both found has one score, to the last bit
        by_item = dict(zip(right[row].tolist(), right_scores[row].tolist(), strict=True))
        for index, score in zip(found[row].tolist(), scores[row].tolist(), strict=True):
            assert by_item.get(index, score) == score


def test_the_same_seed_grows_the_same_forest(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    first = read_index_info(world)
    again = build_index(encoder_bundle(tmp_path / "again", data), data.sequences)
    assert first is not None
    assert (again.forest_sha256, again.search_k, again.recall) == (
        first.forest_sha256,
        first.search_k,
        first.recall,
    )


def test_annoy_tops_up_what_filters_take_away(world: Bundle) -> None:
    table, queries = vectors_of(world, ring(N_ITEMS, 6, seed=3))
    annoy, exact = load_index(world, table, backend="annoy"), load_index(world, table, backend="exact")
    few = np.zeros(N_ITEMS, bool)
    few[[5, 77, 300]] = True
    third = np.arange(N_ITEMS) % 3 == 0
    exclude = Ragged.of([exact.search(queries, 400)[0][row] for row in range(6)])
    for allowed, banned, k, count in ((few, None, 10, 3), (third, None, 50, 50), (None, exclude, 50, 50)):
        found, scores = annoy.search(queries, k, allowed=allowed, exclude=banned)
        _, right_scores = exact.search(queries, k, allowed=allowed, exclude=banned)
        assert np.all((found > 0).sum(axis=1) == count)
        assert allowed is None or allowed[found[found > 0] - 1].all()
        assert banned is None or not any(np.isin(found[row], banned[row]).any() for row in range(6))
        assert (scores >= right_scores[:, -1:]).mean() >= 0.95
    found, _ = annoy.search(queries, N_ITEMS, exclude=exclude)
    assert np.all((found > 0).sum(axis=1) == N_ITEMS - 400), "k items come as long as k are allowed"


def test_a_forest_that_finds_too_little_is_topped_up(world: Bundle) -> None:
    table, queries = vectors_of(world, ring(N_ITEMS, 5, seed=4))
    loaded = load_index(world, table)
    assert isinstance(loaded, AnnoyIndex)
    starved = AnnoyIndex(loaded.forest, loaded.exact, search_k=1, recall_k=10**6)
    assert (starved.search_forest(queries, 300)[0] == 0).any()
    right = loaded.exact.search(queries, 300)
    found = starved.search(queries, 300)
    assert np.array_equal(found[0], right[0]) and np.array_equal(found[1], right[1])


def test_no_look_is_wider_than_annoy_can_count(world: Bundle) -> None:
    loaded = load_index(world, vectors_of(world, ring(N_ITEMS, 3))[0])
    assert isinstance(loaded, AnnoyIndex)
    wide = AnnoyIndex(loaded.forest, loaded.exact, search_k=2**31 - 1, recall_k=1)
    queries = loaded.exact.table[:3]
    assert np.array_equal(wide.search_forest(queries, 10)[0], loaded.exact.search(queries, 10)[0])


def test_an_index_in_fewer_dimensions_keeps_scores_exact(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    bundle = encoder_bundle(tmp_path / "narrow", data)
    info = build_index(bundle, data.sequences, recall=0.8, dim=12, k=20)
    assert info.dimension == 12 and info.projection is not None and info.recall >= 0.8
    table, queries = vectors_of(bundle, ring(N_ITEMS, 20, seed=5))
    found, scores = load_index(bundle, table).search(queries, 20)
    assert np.array_equal(rank(table, queries, found, 20)[1], scores)
    for dim in (0, 18):
        with pytest.raises(InputError, match=f"--dim {dim} does not fit vectors of 17 dimensions"):
            build_index(bundle, data.sequences, dim=dim)
    with pytest.raises(InputError, match=r"in 1 of 17 dimensions reaches recall@20 0\.\d+, but 0.99"):
        build_index(bundle, data.sequences, dim=1, k=20)
    build_index(bundle, data.sequences, k=20, recall=0.5)
    assert sorted(file.suffix for file in (bundle.folder / "index").iterdir()) == [".ann", ".json"]


def test_backends_are_chosen_as_the_docs_say(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    bundle = encoder_bundle(tmp_path / "b", data)
    table, _ = vectors_of(bundle, data.sequences.take([0]))
    assert load_index(bundle, table).name == load_index(bundle, table, "auto").name == "exact"
    with pytest.raises(InputError, match="has no index for backend `annoy`; build one with `recsys index"):
        load_index(bundle, table, "annoy")
    info = build_index(bundle, data.sequences, backend="auto", k=10, recall=0.5)
    assert load_index(bundle, table).name == load_index(bundle, table, "auto").name == info.faster
    assert info.faster == ("annoy" if info.annoy_ms < info.exact_ms else "exact")
    assert load_index(bundle, table, "annoy").name == "annoy"


def test_damage_to_the_index_is_named(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    bundle = encoder_bundle(tmp_path / "b", data)
    table, _ = vectors_of(bundle, data.sequences.take([0]))
    info = build_index(bundle, data.sequences, k=10, recall=0.5)
    sidecar, forest = bundle.folder / "index" / "index.json", bundle.folder / "index" / info.forest
    content = forest.read_bytes()
    forest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=rf"{info.forest} was changed or damaged .* `recsys index`"):
        load_index(bundle, table)
    forest.unlink()
    with pytest.raises(InputError, match=f"{info.forest} is missing"):
        load_index(bundle, table)
    text = sidecar.read_text()
    sidecar.write_text(text.replace(info.model_version, "0123456789ab"))
    with pytest.raises(InputError, match=r"is of model 0123456789ab .* build the index anew"):
        load_index(bundle, table)
    sidecar.write_text(text[:40])
    with pytest.raises(InputError, match=r"index.json cannot be read"):
        load_index(bundle, table)


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.5, float("nan")])
def test_a_recall_that_is_no_share_is_refused_before_any_work(world: Bundle, recall: float) -> None:
    before = read_index_info(world)
    with pytest.raises(InputError, match=rf"--recall {recall} is no share .* more than 0 and at most 1"):
        build_index(world, Ragged.of([]), recall=recall)
    assert read_index_info(world) == before


def test_a_recall_out_of_reach_in_full_width_is_named(world: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.index._tuned", lambda *_, **__: (None, 0.5))
    with pytest.raises(InputError, match=r"in all of 17 dimensions reaches recall@100 0\.500, but 0\.99 was"):
        build_index(world, world.prepared_data().sequences)


def test_names_that_leave_their_folder_are_refused(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    bundle = encoder_bundle(tmp_path / "b", data)
    table, _ = vectors_of(bundle, data.sequences.take([0]))
    info = build_index(bundle, data.sequences, k=10, recall=0.5)
    sidecar, forest = bundle.folder / "index" / "index.json", bundle.folder / "index" / info.forest
    forest.rename(tmp_path / info.forest)
    text = sidecar.read_text()
    for name in (f"../../{info.forest}", str(tmp_path / info.forest)):
        for changed in (asdict(info) | {"forest": name}, asdict(info) | {"projection": name}):
            sidecar.write_text(json.dumps(changed))
            with pytest.raises(
                InputError, match=r"index.json cannot be read .* is no bare file name\); build"
            ):
                load_index(bundle, table)
    sidecar.write_text(text)
    client: Any = None  # nothing is asked of the registry, and nothing looked up in the cache
    for model_id in ("../b", "m-1/../../b", str(tmp_path), ".."):
        with pytest.raises(InputError, match=r"models:/m/1 is of model id .*; expected a bare name"):
            _download(client, model_id, "models:/m/1", tmp_path / "cache")


def test_a_counting_model_needs_no_index(world: Bundle, tmp_path: Path) -> None:
    data = world.prepared_data()
    bundle = counting_bundle(tmp_path / "markov", data, name="markov")
    with pytest.raises(InputError, match="model `markov` counts and needs no index"):
        build_index(bundle, data.sequences)


def test_tiny_catalogues_have_an_index_too(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(5, 8), 5)
    bundle = encoder_bundle(tmp_path / "bundle", data)
    info = build_index(bundle, Ragged.of([]), recall=1.0)
    assert (info.k, info.recall, info.count) == (5, 1.0, 5)
    table, queries = vectors_of(bundle, data.sequences)
    found, _ = load_index(bundle, table, "annoy").search(queries, 9)
    right, _ = load_index(bundle, table, "exact").search(queries, 9)
    assert np.array_equal(found, right)
