"""Finding and promoting bundles in real MLflow: SQLite files, and one real `mlflow server`."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from recsys import mlflow_session as session_module
from recsys.bundle import Bundle
from recsys.errors import InputError
from recsys.mlflow_session import mlflow_session
from recsys.registry import promote, resolve_bundle, rollback
from recsys.tracking import track_run
from tests.mlflow_world import (
    NAME,
    bundle,
    configured,
    logged,
    mlflow_server,
    prepared,
    run_python,
)

# Finding bundles.


def test_a_folder_is_itself_or_no_bundle(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    assert resolve_bundle(str(folder), "sqlite:///nowhere.db") == folder
    with pytest.raises(InputError, match=r"has no manifest\.json; expected the folder of a bundle"):
        resolve_bundle(str(tmp_path), "sqlite:///nowhere.db")
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "kind": "prepared"}')
    with pytest.raises(InputError, match="manifest of kind 'prepared'; expected the folder of a bundle"):
        resolve_bundle(str(tmp_path), "sqlite:///nowhere.db")


def test_a_recorded_bundle_comes_back_whole_and_the_second_time_from_the_cache(
    tracking_uri: str, tmp_path: Path
) -> None:
    folder = bundle(tmp_path / "bundle")
    run_id, version = logged(tracking_uri, folder)
    fetched = resolve_bundle(f"runs:/{run_id}/bundle", tracking_uri)
    assert Bundle.load(fetched).manifest == Bundle.load(folder).manifest
    assert fetched.is_relative_to(tmp_path / "cache")
    shutil.rmtree(tmp_path / "a folder" / "mlruns")
    assert resolve_bundle(f"models:/{NAME}/{version}", tracking_uri) == fetched


def test_unknown_names_say_what_there_is(tracking_uri: str, tmp_path: Path) -> None:
    run_id, _ = logged(tracking_uri, bundle(tmp_path / "bundle"))
    unknown = {
        "models:/other@champion": f"there is no models:/other@champion at .*; registered: {NAME};",
        f"models:/{NAME}@champion": f"there is no models:/{NAME}@champion at .*`recsys promote BUNDLE`",
        f"models:/{NAME}/9": f"there is no models:/{NAME}/9",
        f"models:/{NAME}": "names no model; expected models:/NAME@ALIAS or models:/NAME/VERSION",
        "runs:/00ff/bundle": "there is no run `00ff` at .*expected runs:/RUN_ID/bundle",
        f"runs:/{run_id}/else": f"run {run_id} at .* has no `else`",
    }
    for address, message in unknown.items():
        with pytest.raises(InputError, match=message):
            resolve_bundle(address, tracking_uri)


def test_an_absent_server_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session_module, "CONNECT_SECONDS", 0.5)
    started = time.monotonic()
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(
            InputError, match=f"no tracking server answers at http://127.0.0.1:{port} .*timed out"
        ):
            resolve_bundle("models:/m@champion", f"http://127.0.0.1:{port}")
    for scheme in ("http", "postgresql"):
        with pytest.raises(
            InputError, match=r"no tracking server answers .*refused.*start it \(`mlflow server`\)"
        ):
            resolve_bundle("models:/m@champion", f"{scheme}://127.0.0.1:{port}")
    assert time.monotonic() - started < 5


def test_tracking_uris_that_cannot_work_say_why(tmp_path: Path) -> None:
    for folder in ("./mlruns", "file:./mlruns"):
        with pytest.raises(
            InputError, match="is a folder, and MLflow 3 records nothing in plain files; expected"
        ):
            resolve_bundle("models:/m@champion", folder)
    with pytest.raises(
        InputError, match=r"there is no tracking database .*none\.db; `recsys train` makes one"
    ):
        resolve_bundle("models:/m@champion", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(InputError, match=r"cannot be made: .* is missing or not writable"):
        promote(
            str(bundle(tmp_path / "b")), model_name="m", tracking_uri=f"sqlite:///{tmp_path}/no/mlflow.db"
        )
    (tmp_path / "text.db").write_text("not a database at all")
    with pytest.raises(
        InputError, match=r"text\.db is not an SQLite database; give tracking\.uri another file"
    ):
        resolve_bundle("models:/m@champion", f"sqlite:///{tmp_path}/text.db")


# The champion.


def champion(uri: str) -> str:
    return str(Bundle.load(resolve_bundle(f"models:/{NAME}@champion", uri)).manifest["model"])


def test_promote_registers_compares_and_rolls_back(tracking_uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": tracking_uri, "if_better": "ndcg@10"}
    poor = bundle(tmp_path / "poor", "popularity", {"test_ndcg@10": 0.05, "ndcg@10": 0.9})
    good = bundle(tmp_path / "good", "markov", {"test_ndcg@10": 0.08, "ndcg@10": 0.1})
    run_id, _ = logged(tracking_uri, good)

    first = promote(str(poor), **to)  # a folder that no run recorded: version 2, the run's is version 1
    assert (first.version, first.moved, first.message) == (
        "2",
        True,
        f"version 2 is the first champion of {NAME}",
    )
    with pytest.raises(InputError, match=f"{NAME} at .* has no previous champion to go back to"):
        rollback(NAME, tracking_uri)

    better = promote(f"runs:/{run_id}/bundle", **to)
    assert (better.version, better.previous, better.moved) == ("1", "2", True)
    assert "replaces champion 2: ndcg@10 0.08 of version 1 is better than 0.05 of version 2" in better.message
    assert champion(tracking_uri) == "markov"

    kept = promote(f"models:/{NAME}/2", **to)
    assert (kept.version, kept.moved) == ("1", False)
    assert kept.message.startswith(
        f"kept champion version 1 of {NAME}: ndcg@10 0.05 of version 2 is not better than 0.08 of version 1; "
        "these are the stored figures, no interval was possible ("
    )
    again = promote(str(good), **to)
    assert (again.moved, "the champion already" in again.message) == (False, True)

    back = rollback(NAME, tracking_uri)
    assert (back.version, back.previous, champion(tracking_uri)) == ("2", "1", "popularity")
    assert (rollback(NAME, tracking_uri).version, champion(tracking_uri)) == ("1", "markov")
    assert promote(str(poor), model_name=NAME, tracking_uri=tracking_uri).moved  # asked without a comparison
    assert champion(tracking_uri) == "popularity"


def test_equal_is_not_better(tracking_uri: str, tmp_path: Path) -> None:
    for model in ("popularity", "markov"):
        folder = bundle(tmp_path / model, model, {"test_hr@10": 0.2})
        result = promote(str(folder), model_name=NAME, tracking_uri=tracking_uri, if_better="hr@10")
    assert (result.version, result.moved) == ("1", False)


def test_what_cannot_be_compared_is_refused(tracking_uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": tracking_uri, "if_better": "ndcg@10"}
    promote(str(bundle(tmp_path / "one", "popularity", {"test_ndcg@10": 0.05})), **to)
    two = bundle(tmp_path / "two", "markov", {"test_ndcg@10": 0.08}, digest="f" * 64)
    with pytest.raises(
        InputError, match=r"two was measured on data ffff.* version 1 on 0123456789ab: ndcg@10 compares"
    ):
        promote(str(two), **to)
    three = bundle(tmp_path / "three", "item_knn", {"test_hr@10": 0.2})
    with pytest.raises(InputError, match=r"three has no metric ndcg@10 \(it has test_hr@10\); name one"):
        promote(str(three), **to)
    for wrong in ("ndcg@0", "ndcg", "hit@10", "ndcg@1001"):
        for folder in ("one", "three"):  # the champion itself, and another
            with pytest.raises(InputError, match=f"`{wrong}` is no metric; expected one of hr, ndcg, mrr"):
                promote(str(tmp_path / folder), **{**to, "if_better": wrong})
    assert champion(tracking_uri) == "popularity"
    assert versions(tracking_uri) == ["1"]  # what was refused is not registered


def test_a_first_champion_needs_the_figure_too(tracking_uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": tracking_uri}
    bare = bundle(tmp_path / "bare", "popularity")
    with pytest.raises(InputError, match=r"bare has no metric ndcg@10 \(it has none\); name one that was"):
        promote(str(bare), if_better="ndcg@10", **to)
    with pytest.raises(InputError, match="`oops@10` is no metric"):
        promote(str(bare), if_better="oops@10", **to)
    assert versions(tracking_uri) == []
    assert promote(str(bare), **to).moved


def test_what_does_not_become_champion_is_not_registered(tracking_uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": tracking_uri, "if_better": "hr@10"}
    for model, figure in (("popularity", 0.2), ("markov", 0.1)):
        result = promote(str(bundle(tmp_path / model, model, {"test_hr@10": figure})), **to)
    assert not result.moved
    assert f"hr@10 0.1 of {tmp_path / 'markov'} is not better than 0.2 of version 1" in result.message
    assert versions(tracking_uri) == ["1"]


def versions(uri: str) -> list[str]:
    with mlflow_session(uri) as client:
        return sorted(str(each.version) for each in client.search_model_versions(f"name = '{NAME}'"))


# A server.


def test_against_a_real_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "cache"))
    with mlflow_server(tmp_path / "server") as (address, process):
        exercise_server(address, tmp_path, capfd)
        process.terminate()
        process.wait(timeout=20)
        started = time.monotonic()
        with pytest.raises(InputError, match=f"no tracking server answers at {address}"):
            resolve_bundle(f"models:/{NAME}@champion", address)
        assert time.monotonic() - started < 10


def exercise_server(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Record, find, promote, load with mlflow.pyfunc, roll back."""
    first = bundle(tmp_path / "first", "popularity", {"test_ndcg@10": 0.05})
    with track_run(configured(address), prepared().manifest) as run:
        run.log_epoch(1, {"loss": 3.0, "ndcg@10": 0.1})
        run.log_curves([{"epoch": 1, "loss": 3.0}])
        version = run.log_bundle(first)
    fetched = resolve_bundle(f"runs:/{run.run_id}/bundle", address)
    assert Bundle.load(fetched).manifest == Bundle.load(first).manifest
    assert resolve_bundle(f"models:/{NAME}/{version}", address) == fetched
    with pytest.raises(InputError, match=f"there is no models:/{NAME}@champion at {address}"):
        resolve_bundle(f"models:/{NAME}@champion", address)
    with pytest.raises(InputError, match="there is no run `00ff`"):
        resolve_bundle("runs:/00ff/bundle", address)

    assert promote(f"runs:/{run.run_id}/bundle", model_name=NAME, tracking_uri=address).version == "1"
    second = bundle(tmp_path / "second", "markov", {"test_ndcg@10": 0.08})
    better = promote(str(second), model_name=NAME, tracking_uri=address, if_better="ndcg@10")
    assert (better.version, better.previous, better.moved) == ("2", "1", True)
    assert champion(address) == "markov"
    assert capfd.readouterr() == ("", "")  # MLflow is talkative; ours is the only voice

    answer = run_python(
        f"""
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{NAME}@champion")
frame = pandas.DataFrame({{"history": [["item-1"], ["item-2", "item-3"]]}}, index=[5, 6])
found = model.predict(frame, params={{"k": 2}})
print(found["items"].to_json(), found["scores"].map(len).tolist())
""",
        MLFLOW_TRACKING_URI=address,
    )
    items, _, lengths = answer.strip().rpartition(" [")
    assert json.loads(items)["5"][0] == "item-2"  # item-1 was followed by item-2
    assert (set(json.loads(items)), lengths) == ({"5", "6"}, "2, 2]")

    assert (rollback(NAME, address).version, champion(address)) == ("1", "popularity")
