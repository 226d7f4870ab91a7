"""Playlists in the endpoint: the answers of the library, under the endpoint's filters, errors and watch."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from recsys.answers import Filters
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.playlists import map_store, store
from recsys.playlists.continuation import Diverse, Limit, diverse_beams, groups_of, one_shot
from recsys.playlists.map_store import load_map, store_map
from recsys.playlists.recommender import PlaylistRecommender
from recsys.playlists.store import (
    PlaylistModel,
    build_playlist_index,
    load_playlist_index,
    put_in_force,
    read_index_file,
    write_part,
)
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from serving import playlist_schemas as schemas
from serving.app import create_app
from serving.batching import Overloaded
from serving.playlists import Loaded
from serving.service import Service, Settings
from serving.watched import Watched
from tests.playlist_world import N_TRACKS, genre_walks, playlist_folder, track
from tests.serving_world import until
from tests.worlds import counting_bundle, prepared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("playlists") / "data", genre_walks(), N_TRACKS)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Recommender:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return Recommender.load(counting_bundle(folder, data, name="popularity").folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> PlaylistModel:
    return playlist_folder(tmp_path_factory.mktemp("playlists"), data)


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, recommender: Recommender, model: PlaylistModel
) -> Iterator[TestClient]:
    stock = tmp_path_factory.mktemp("stock") / "stock.csv"
    stock.write_text(f"item,available,region\n{track(2, 0)},true,de\n")
    settings = Settings(playlists=model.folder, availability=stock)
    with TestClient(create_app(recommender, settings)) as found:
        yield found


def answer(client: TestClient, name: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401
    response = client.post(f"/v1/playlists/{name}", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    assert response.headers["x-model-version"] == found["model_version"]
    return found


def ids(items: list[dict[str, Any]]) -> list[object]:
    return [item["id"] for item in items]


def test_similar_playlists_are_the_neighbours(client: TestClient, model: PlaylistModel) -> None:
    walk = [track(1, place) for place in (4, 5, 6, 7)]  # playlist u13
    by_id = answer(client, "similar", playlist="u13", k=4)
    assert set(ids(by_id["playlists"])) == {"u10", "u16", "u7", "u19"}
    assert [each["shared"] for each in by_id["playlists"]] == [3, 3, 2, 2]
    assert by_id["playlists"][0]["length"] == 4 and len(by_id["playlists"][0]["tracks"]) == 3
    by_tracks = answer(client, "similar", tracks=[*walk, "nope", "nope"], k=5)
    assert ids(by_tracks["playlists"]) == ["u13", *ids(by_id["playlists"])]
    assert by_tracks["unknown"] == ["nope"] and by_tracks["fewer_because"] is None
    assert by_tracks["playlists"][0]["score"] == pytest.approx(1)
    assert by_tracks["model_version"] == model.version
    everyone = answer(client, "similar", playlist="u13", k=100)
    assert len(everyone["playlists"]) == 59
    assert everyone["fewer_because"] == "only 59 other playlists are embedded"


def test_a_continuation_is_that_of_the_command(client: TestClient, model: PlaylistModel) -> None:
    seed = [track(0, 3), track(0, 4), track(0, 6)]  # nothing is equally near to it
    read = Ragged.of([model.vocabulary.encode(seed)])
    found = answer(client, "continue", tracks=seed, k=7)
    assert ids(found["slates"][0]) == model.vocabulary.decode(one_shot(model.encoder, read, 7)[0])
    assert found["slates"][0][0]["title"] == "Song 6"
    years = groups_of(model.items["year"].to_pylist())
    limited = answer(client, "continue", tracks=seed, k=7, max_per={"year": 1})
    wanted = one_shot(model.encoder, read, 7, [Limit(years, 1)])[0]
    assert ids(limited["slates"][0]) == model.vocabulary.decode(wanted)
    body = {"groups": 2, "width": 3, "strength": 0.5, "attribute": "year"}
    diverse = answer(client, "continue", tracks=seed, k=5, max_per={"year": 1}, diverse=body)
    slates = diverse_beams(model.encoder, read[0], 5, Diverse(2, 3, 0.5, years), [Limit(years, 1)])
    assert [ids(slate) for slate in diverse["slates"]] == [model.vocabulary.decode(s) for s in slates]
    scores = {
        item["id"]: item["score"] for item in answer(client, "continue", tracks=seed, k=50)["slates"][0]
    }
    assert all(item["score"] == scores[item["id"]] for slate in diverse["slates"] for item in slate)
    stored = answer(client, "continue", playlist="u13", k=2)
    assert set(ids(stored["slates"][0])) == {track(1, 3), track(1, 8)}


@pytest.mark.parametrize("diverse", [None, {"groups": 1}], ids=["one-shot", "diverse"])
def test_the_filters_of_the_endpoint_hold(client: TestClient, diverse: dict[str, int] | None) -> None:
    def slate(**body: Any) -> tuple[list[object], str | None]:  # noqa: ANN401
        found = answer(client, "continue", tracks=[track(2, 19)], diverse=diverse, **body)
        return ids(found["slates"][0]), found["fewer_because"]

    near = [track(2, 18), track(2, 0)]  # equally near; the second is to be had in one region alone
    assert set(slate(k=2)[0]) == set(near)
    assert slate(k=1, region="de") != slate(k=1, region="fr")
    assert near[1] not in slate(k=20, region="fr")[0]
    assert slate(k=2, deny=[near[1], "nope"])[0][0] == near[0]
    found, why = slate(k=9, allow=[*near, track(2, 19)])
    assert (set(found), why) == (set(near), "only 2 of 60 items may come (allow, exclude_seen, availability)")
    found, why = slate(k=9, min_score=1.06)
    assert len(found) == 4 and why == "only 4 items that may come score at least 1.06"
    assert slate(k=9, where={"year": {">=": 2000}})[0] == []
    assert len(slate(k=30, max_per={"year": 1})[0]) == 10
    assert slate(k=30, max_per={"year": 1})[1] == "no further item may come with at most 1 of each `year`"


@pytest.mark.parametrize(
    ("name", "body", "status", "message"),
    [
        ("similar", {}, 400, "has neither of `tracks` and `playlist`; send one of them"),
        ("similar", {"tracks": ["i1"], "playlist": "u1"}, 400, "has both of `tracks` and `playlist`"),
        ("similar", {"playlist": "nobody"}, 404, "playlist `nobody` is not among the 60 embedded ones"),
        ("similar", {"tracks": []}, 400, "`tracks` is empty; give at least one track id"),
        ("similar", {"tracks": ["i1"] * 1001}, 422, "#/tracks: List should have at most 1000 items"),
        ("similar", {"tracks": ["i1"], "k": 0}, 422, "#/k: Input should be"),
        ("continue", {"tracks": ["x", 5]}, 400, "`tracks` has 2 tracks and none of them is known (x, 5)"),
        ("continue", {"tracks": ["i1"], "exclude_seen": False}, 422, "#/exclude_seen: Extra inputs"),
        ("continue", {"tracks": ["i1"], "where": {"x": [1]}}, 400, "attribute `x`"),
        ("continue", {"tracks": ["i1"], "k": 101, "diverse": {}}, 400, "diverse slates have at most 100"),
        ("continue", {"tracks": ["i1"], "diverse": {"groups": 6}}, 422, "#/diverse/groups: Input should"),
        ("continue", {"tracks": ["i1"], "diverse": {"attribute": "x"}}, 400, "tracks have no column `x`"),
        (
            "continue",
            {"tracks": ["i1"], "diverse": {}, "max_per": {"genres": 1}},
            400,
            "tracks have several values of `genres`, which diverse slates cannot count",
        ),
    ],
)
def test_what_is_wrong_is_said(
    client: TestClient, name: str, body: dict[str, object], status: int, message: str
) -> None:
    response = client.post(f"/v1/playlists/{name}", json=body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert message in response.json()["detail"]
    assert "/" not in response.json()["detail"].partition("#/")[0], "names no place of the server"


def test_a_playlist_its_map_and_the_card(client: TestClient, model: PlaylistModel) -> None:
    found = client.get("/v1/playlists/tracks?playlist=u13").json()
    assert (found["id"], found["title"], found["length"]) == ("u13", None, 4)
    assert ids(found["tracks"]) == [track(1, place) for place in (4, 5, 6, 7)]
    assert client.get("/v1/playlists/tracks?playlist=x").status_code == 404
    points = client.get("/v1/playlists/map").json()
    stored = load_map(model)
    assert stored is not None
    assert points["label"] == stored.label.tolist() and points["lengths"] == [4] * 60
    assert (min(points["x"]), max(points["y"])) == (0, 1)
    assert [each["name"] for each in points["labels"]] == ["rock", "jazz", "folk"]
    card = client.get("/v1/model").json()["playlists"]
    assert card["playlists"] == 60 and card["map"] and card["model_version"] == model.version
    assert card["attributes"] == ["title", "year"]
    text = client.get("/metrics").text
    assert all(f'recsys_stage_seconds_count{{stage="{stage}"}}' in text for stage in ("encode", "beam"))


def test_an_endpoint_without_playlists_says_so(recommender: Recommender) -> None:
    with TestClient(create_app(recommender)) as client:
        answers = [
            client.post("/v1/playlists/similar", json={"playlist": "u1"}),
            client.post("/v1/playlists/continue", json={"tracks": ["i1"]}),
            client.get("/v1/playlists/map"),
            client.get("/v1/playlists/tracks?playlist=u1"),
        ]
        assert client.get("/v1/model").json()["playlists"] is None
    assert {each.status_code for each in answers} == {400}
    assert all("no playlists are served here; start it as `recsys serve" in each.text for each in answers)


def test_a_beam_stops_when_nobody_waits_and_few_may_wait(
    recommender: Recommender, model: PlaylistModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(playlists=model.folder, threads=1, waiting=1)
    service = Service(Watched("model", tuple, lambda: recommender), settings).playlists
    go, begun, calls = threading.Event(), threading.Event(), 0
    encoder = service.loaded.recommender.model.encoder
    real = encoder.encode

    def slow(items_BL: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        begun.set()
        assert go.wait(60)
        return real(items_BL)

    monkeypatch.setattr(encoder, "encode", slow)

    def asked(k: int) -> asyncio.Future[Any]:
        request = schemas.ContinueRequest(tracks=[track(0, 0)], k=k, diverse=schemas.DiverseSearch())
        return asyncio.ensure_future(service.continued(request))

    async def run() -> None:
        long = asked(50)
        await asyncio.to_thread(begun.wait, 60)
        short, refused = asked(1), asked(1)
        await asyncio.sleep(0)
        assert refused.done()
        with pytest.raises(Overloaded, match="1 questions are waiting already"):
            await refused
        long.cancel()  # as the gate does at the deadline
        with pytest.raises(asyncio.CancelledError):
            await long
        go.set()
        assert len((await short).slates) == 3

    asyncio.run(run())
    service.stop()
    assert calls == 3, "the long one's seed; the short one's, and its step"


def test_a_playlist_is_written_in_the_thread(recommender: Recommender, model: PlaylistModel) -> None:
    settings = Settings(playlists=model.folder)
    service = Service(Watched("model", tuple, lambda: recommender), settings).playlists
    version, body = asyncio.run(service.stored("u13"))
    service.stop()
    assert isinstance(body, bytes) and schemas.PlaylistResponse(**json.loads(body)).model_version == version


def test_new_playlists_take_over_and_broken_ones_are_refused(
    recommender: Recommender, model: PlaylistModel, data: PreparedData, tmp_path: Path
) -> None:
    place = tmp_path / "served"
    shutil.copytree(model.folder, place)
    mine = PlaylistModel.load(place)

    with TestClient(create_app(recommender, Settings(playlists=place, watch=0.02))) as client:

        def problem() -> str:
            return str(client.get("/readyz").json()["problems"].get("playlists", ""))

        def length() -> int:
            return int(client.get("/v1/playlists/tracks?playlist=u0").json()["length"])

        assert client.get("/v1/playlists/map").status_code == 200
        longer = Ragged.of([np.r_[walk, walk[-1]] for walk in map(genre_walks().__getitem__, range(60))])
        build_playlist_index(mine, prepared(tmp_path / "data", longer, N_TRACKS))
        until(lambda: length() == 5)
        assert "`recsys playlists map` makes one" in client.get("/v1/playlists/map").json()["detail"]
        forest = next(place.glob("index/*.ann"))
        with forest.open("r+b") as stream:  # in place, under the feet of whoever maps it
            stream.truncate(100)
        until(problem)
        assert problem().startswith(
            f"{forest} is missing, or was changed or damaged; run `recsys playlists embed"
        )
        assert length() == 5 and client.post("/v1/playlists/similar", json={"playlist": "u1"}).is_success


def test_one_at_a_time_writes_an_index_and_a_map_of_a_former_one_is_not_kept(
    model: PlaylistModel, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model.folder, tmp_path / "copy")
    mine = PlaylistModel.load(tmp_path / "copy")
    written: list[str] = []

    def locked(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:  # noqa: ANN401
            other = os.open(mine.folder / "index", os.O_RDONLY)  # as another process would
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(other)
            written.append(write.__name__)
            return write(*arguments)

        return call

    for module in (store, map_store):
        for write in (write_part, put_in_force):
            monkeypatch.setattr(module, write.__name__, locked(write))
    former, found = load_playlist_index(mine), load_map(mine)
    assert found is not None
    store_map(mine, build_playlist_index(mine, data), found)
    assert written == ["write_part", "write_part", "put_in_force", "write_part", "put_in_force"]
    longer = Ragged.of([np.r_[walk, walk[-1]] for walk in map(genre_walks().__getitem__, range(60))])
    build_playlist_index(mine, prepared(tmp_path / "data", longer, N_TRACKS))
    stated = read_index_file(mine)
    with pytest.raises(InputError, match="were embedded anew while they were mapped; the map is not kept"):
        store_map(mine, former, found)
    assert read_index_file(mine) == stated and load_map(mine) is None


def test_an_index_of_other_vectors_is_refused(model: PlaylistModel, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(model.folder, place)
    mine = PlaylistModel.load(place)
    stated = read_index_file(mine)
    table = pq.read_table(place / "index" / stated["vectors"])
    mixed = table.set_column(2, "vector", table["vector"].take(np.roll(np.arange(len(table)), 1)))
    name = write_part(mine, "vectors", lambda draft: pq.write_table(mixed, draft))
    put_in_force(mine, {**stated, "vectors": name})
    with pytest.raises(InputError, match=r"copy that is embedded again is not the stored one \(cosine 0"):
        Loaded.from_folder(place)
    with pytest.raises(InputError, match=r"holds something else|nothing.* is missing|cannot be read"):
        Loaded.from_folder(tmp_path / "nothing")


def test_nothing_may_come_and_nothing_warns(model: PlaylistModel) -> None:
    found = PlaylistRecommender.load(model.folder)
    seed = found.read([track(0, 0)])
    years = groups_of(model.items["year"].to_pylist())
    two = np.zeros(N_TRACKS, dtype=bool)
    two[[3, 13]] = True  # of one year
    slates = diverse_beams(model.encoder, seed.tracks, 5, Diverse(2, 2), [Limit(years, 1)], two)
    assert [len(slate) for slate in slates] == [1, 1]
    none = found.diverse(seed, 3, Filters(allow=[]), groups=2, width=1, strength=1.0, attribute=None)
    assert (
        none.slates == [[], []] and none.fewer_because == "only 0 of 60 items may come (allow, exclude_seen)"
    )
