"""The endpoint's parts by themselves: batches, tables, keys, watched values, spans."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from recsys.cli_options import engine_named
from recsys.errors import InputError
from recsys.recommender import Recommender
from recsys.vocabulary import Vocabulary, vocabulary_of
from serving.app import create_app
from serving.batching import Batcher, Overloaded
from serving.model import load_checked
from serving.security import ApiKeys, new_key
from serving.service import Settings
from serving.tables import Availability, Histories
from serving.watched import Watched, Watcher, stamp
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring


class Held:
    """Answers with the squares, when it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Semaphore(0)

    def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        assert self.go.acquire(timeout=10)
        if 13 in batch:
            raise KeyError(13)
        return [number**2 for number in batch]


async def waiting(held: Held, batches: int) -> None:
    while len(held.batches) < batches:
        await asyncio.sleep(0.001)


def test_questions_gather_while_a_batch_is_under_way() -> None:
    held = Held()

    async def run() -> None:
        batcher = Batcher[int, int](held, window=0, most=4)
        first = asyncio.ensure_future(batcher.ask([1]))
        await waiting(held, 1)
        assert held.batches == [[1]], "it did not wait for others"
        others = [asyncio.ensure_future(batcher.ask(each)) for each in ([2, 3], [4], [5, 6], [7] * 9, [8])]
        gone = asyncio.ensure_future(batcher.ask([9]))
        await asyncio.sleep(0)
        gone.cancel()
        held.go.release(9)
        assert await first == [1]
        assert [await each for each in others] == [[4, 9], [16], [25, 36], [49] * 9, [64]]
        batcher.close()

    asyncio.run(run())
    assert held.batches == [[1], [2, 3, 4], [5, 6], [7] * 9, [8]]


def test_the_window_is_for_as_many_as_came_before_and_never_for_one_alone() -> None:
    held = Held()

    async def run() -> None:
        batcher = Batcher[int, int](held, window=30)
        held.go.release(4)
        assert [await batcher.ask([n]) for n in (1, 2)] == [[1], [4]], "no waiting for half a minute"
        assert await batcher.ask([3, 4]) == [9, 16]
        late = asyncio.ensure_future(batcher.ask([5]))
        await asyncio.sleep(0.05)
        assert not late.done(), "after two together it waits for a second"
        assert await batcher.ask([6]) == [36] and await late == [25]
        batcher.close()

    asyncio.run(run())
    assert held.batches == [[1], [2], [3, 4], [5, 6]]


def test_a_full_queue_and_a_failure_reach_those_who_asked() -> None:
    held = Held()

    async def run() -> None:
        batcher = Batcher[int, int](held, window=0, most=1, waiting=3)
        first = asyncio.ensure_future(batcher.ask([1]))
        await waiting(held, 1)
        second, third = (asyncio.ensure_future(batcher.ask([n, n])) for n in (13, 3))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 questions are waiting already; ask again in 1 s"):
            await third
        held.go.release(9)
        assert await first == [1]
        with pytest.raises(KeyError):
            await second
        assert await batcher.ask([5]) == [25]
        batcher.close()

    asyncio.run(run())


VOCABULARY = vocabulary_of(["a", "b", "c", "d"])


def test_availability_by_region_and_time(tmp_path: Path) -> None:
    file = tmp_path / "stock.csv"
    file.write_text(
        "item,available,region,starts,expires\n"
        "a,false,,,\n"
        "b,true,de,,2030-01-01\n"
        "b,true,fr,2030-01-01,\n"
        "c,,,,2030-01-01T06:00:00\n"
        "gone,true,,,\n"
    )
    table = Availability.read(file)
    before, after, much_later = 1893455999.0, 1893456000.0, 1893477600.0  # 2030 begins between the first two

    def there(region: str | None, now: float) -> str:
        mask = table.mask(VOCABULARY, region, now)
        return "".join(name for name, one in zip("abcd", mask, strict=True) if one)

    assert [there(region, before) for region in (None, "de", "fr", "xx")] == ["bcd", "bcd", "cd", "cd"]
    assert [there(region, after) for region in (None, "de", "fr", "xx")] == ["bcd", "cd", "bcd", "cd"]
    assert [there(region, much_later) for region in (None, "de")] == ["bd", "d"]
    pq.write_table(pa.table({"item": ["a"], "expires": ["2030-01-01T00:00:00Z"]}), tmp_path / "stock.parquet")
    text = Availability.read(tmp_path / "stock.parquet")
    assert [bool(text.mask(VOCABULARY, None, now)[0]) for now in (before, after)] == [True, False]


def test_ids_of_a_csv_are_text_and_unknown_items_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "stock.csv"
    file.write_text("item,available,region\n0070,false,01\n0071,true,01\n71,true,1\n")
    table = Availability.read(file)
    vocabulary = vocabulary_of(["0070", "0071", "0072"])
    assert table.mask(vocabulary, None).tolist() == [False, True, True]
    assert table.mask(vocabulary, "01").tolist() == [False, True, True]
    assert table.mask(vocabulary, "1").tolist() == [False, False, True]
    assert [each.getMessage() for each in caplog.records] == [
        f"1 of 3 rows of {file} are of items unknown to the model"
    ], "once for each vocabulary"
    integers = vocabulary_of([70, 71, 72])
    assert table.mask(integers, None).tolist() == [True, True, True], "0070 spells no integer"
    assert integers.encode_texts(table.items).tolist() == integers.encode(table.items.to_pylist()).tolist()


def test_the_items_of_a_table_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [f"2030-01-0{day}" for day in (1, 2)]
    pq.write_table(pa.table({"item": ["a", "b"], "expires": days}), tmp_path / "t.parquet")
    table = Availability.read(tmp_path / "t.parquet")
    lookups: list[pa.Array] = []
    real = Vocabulary.encode_texts

    def counted(vocabulary: Vocabulary, ids: pa.Array) -> NDArray[np.int32]:
        lookups.append(ids)
        return real(vocabulary, ids)

    monkeypatch.setattr(Vocabulary, "encode_texts", counted)
    first = 1893456000.0  # when the first can be had no longer
    for now, there in ((first - 1, [True, True]), (first, [False, True]), (first + 86400, [False, False])):
        for region in (None, "x"):
            assert table.mask(VOCABULARY, region, now).tolist() == [*there, True, True]
    assert lookups == [table.items]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"thing": [1]}, "has columns thing; expected `item` and any of available, region"),
        ({"item": [1], "colour": [1]}, "has columns item, colour; expected `item` and any of"),
        ({"item": ["a"], "expires": ["soon"]}, r"column `expires` of .* is of type string"),
        ({"item": ["a"], "available": ["maybe"]}, "column `available` of .*; expected bool"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        Availability.read(tmp_path / "t.parquet")


def test_stored_histories_from_a_file_or_from_prepared_data(tmp_path: Path) -> None:
    rows = ring(30, 4)
    data = prepared(tmp_path / "data", rows, 30)
    stored = Histories.read(tmp_path / "data")
    assert len(stored) == 4 and stored.of("u2") == data.vocabulary.decode(rows[2]) and stored.of("x") is None
    file = tmp_path / "stored.parquet"
    pq.write_table(pa.table({"sequence": [7, 8], "items": [["a", "b"], None]}), file)
    read = Histories.read(file)
    assert (read.of(7), read.of("8"), read.of(9)) == (["a", "b"], [], None)
    pq.write_table(pa.table({"sequence": [7, 7], "items": [["a"], ["b"]]}), file)
    with pytest.raises(InputError, match="do not name one history each"):
        Histories.read(file)
    with pytest.raises(InputError, match=r"expected `sequence` and `items` \(lists of item ids"):
        Histories.read(tmp_path / "data/sequences.parquet")
    file.write_text("no parquet")
    with pytest.raises(InputError, match=r"stored\.parquet cannot be read as Parquet"):
        Histories.read(file)


def test_keys(tmp_path: Path) -> None:
    (key, line), file = new_key("shop"), tmp_path / "keys"
    file.write_text(f"# ours\n\n{line}\n")
    keys = ApiKeys.read(file)
    assert key not in line
    given = (f"Bearer {key}", f"bearer {key}", f"Basic {key}", f"Bearer {key}x", key, "", "Bearer \udcff")
    assert [keys.name_of(each) for each in given] == ["shop", "shop", None, None, None, None, None]
    for content, message in {
        "": "has no key, so nobody could ask",
        "shop:abc": "line 1 of .* is no new `name:hash`",
        f"{line}\n{line}": "line 2 of .* is no new `name:hash`; `recsys api-key NAME` prints",
    }.items():
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            ApiKeys.read(file)
    with pytest.raises(InputError, match="the key's name is `a:b`; expected up to 64 letters"):
        new_key("a:b")


def test_a_watched_value_stays_until_a_good_one_comes(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    loads: list[str] = []

    def load() -> int:
        loads.append(file.read_text())
        return int(loads[-1])

    watched = Watched("number", lambda: stamp(file), load)
    steps: list[tuple[Callable[[], object], int, str | None]] = [
        (lambda: None, 1, None),
        (lambda: file.write_text("22"), 22, None),
        (lambda: file.write_text("bad"), 22, "ValueError: invalid literal"),
        (lambda: None, 22, "ValueError: invalid literal"),
        (file.unlink, 22, "cannot be read (No such file or directory); put it back"),
        (lambda: file.write_text("4444"), 4444, None),
    ]
    for act, value, problem in steps:
        act()
        watched.refresh()
        assert watched.value == value
        assert (watched.problem is None) == (problem is None) and (problem or "") in (watched.problem or "")
    assert loads == ["1", "22", "bad", "4444"], "what was refused is not read again"
    assert (watched.changes, watched.refusals) == (2, 2)


def test_a_slow_look_delays_no_other_value() -> None:
    go, late, changed = threading.Event(), threading.Event(), threading.Event()
    looks = 0

    def slow() -> tuple[int]:
        nonlocal looks
        looks += 1
        if looks > 1:
            late.set()
            assert go.wait(60)
        return (0,)

    def load() -> int:
        if late.is_set():
            changed.set()
        return 0

    watcher = Watcher([Watched("model", slow, int), Watched("keys", lambda: (late.is_set(),), load)], 0.01)
    watcher.start()
    try:
        assert changed.wait(20), "the keys wait for the model"
    finally:
        watcher.stop()
        go.set()


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("parts")
    data = prepared(folder / "data", ring(50, 20), 50)
    return load_checked(counting_bundle(folder / "bundle", data, name="markov").folder)


def test_cors_opens_for_the_origins_named(recommender: Recommender) -> None:
    app = create_app(recommender, Settings(origins=("https://shop.example",)))
    with TestClient(app) as client:
        mine = client.get("/healthz", headers={"origin": "https://shop.example"})
        other = client.get("/healthz", headers={"origin": "https://evil.example"})
    assert mine.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in other.headers
    assert mine.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_requests_are_spans_of_the_caller_s_trace(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with TestClient(create_app(recommender)) as client:
        client.post("/v1/recommend", json={"history": ["i1"]}, headers={"traceparent": caller})
    # FastAPI has spans of its own.
    (span,) = [
        each for each in exporter.get_finished_spans() if "recsys.request_id" in (each.attributes or {})
    ]
    assert span.name == "POST /v1/recommend" and f"{span.context.trace_id:032x}" in caller
    assert span.attributes is not None and span.attributes["http.response.status_code"] == 200


def test_the_onnx_engine_answers_as_pytorch_does_and_alike_in_every_batch(tmp_path: Path) -> None:
    rows = ring(50, 30)
    bundle = encoder_bundle(tmp_path / "bundle", prepared(tmp_path / "data", rows, 50))
    eager, fast = load_checked(bundle.folder), load_checked(bundle.folder, engine="onnx")
    together, scores = fast.recommend_batch(rows, 10)
    assert np.array_equal(together, eager.recommend_batch(rows, 10)[0])
    assert scores == pytest.approx(eager.recommend_batch(rows, 10)[1], abs=1e-3)
    for row in range(len(rows)):
        one = fast.recommend_batch(rows.take([row]), 10)
        assert np.array_equal(one[0][0], together[row]) and np.array_equal(one[1][0], scores[row])


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = encoder_bundle(tmp_path / "bundle", prepared(tmp_path / "data", ring(20, 10), 20))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"engine `onnx` needs onnx, .*install the extra `onnx`"):
        Recommender.load(bundle.folder, engine="onnx")
    with pytest.raises(InputError, match="engine `int8` is unknown; known: eager, onnx"):
        engine_named("int8")
