"""Tuning: what is tried, what is chosen, what is never looked at, and what happens when it is interrupted."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recsys
from data_prep.sample import write_sample
from recsys.cli import app
from recsys.config import ExperimentConfig, build_config, load_config
from recsys.dataset import PreparedData, Split
from recsys.errors import InputError
from recsys.mlflow_session import mlflow_session
from recsys.sequences import Ragged
from recsys.tracking import TrackedRun
from recsys.training import fit_encoder
from recsys.tuning import Tuned, trials, tune
from recsys.tuning.result import write_tuned
from recsys.tuning.space import TUNED, ranges, tuned_config
from tests.mlflow_world import sqlite_uri
from tests.worlds import PUBLISHED, prepared, ring

N_ITEMS = 30
TRIALS = 5
GIVEN = {"model.mask_prob": 0.3, "model.dropout": 0.0, "model.max_length": 12}


class Interruption(BaseException):
    """What ends a process, so that nothing of ours can catch it."""


def configured(folder: Path, uri: str, model: dict[str, Any] | str | None = None, **training: Any) -> Any:  # noqa: ANN401
    settings = {key.partition(".")[2]: value for key, value in GIVEN.items()}
    tree = {
        "name": "ring",
        "data": {"format": "sequences"},
        "prepared": str(folder / "data"),
        "output": str(folder / "run"),
        "model": model or {"name": "bert4rec", "dim": 16, "layers": 1, **PUBLISHED, **settings},
        "training": {"epochs": 6, "validate_every": 1, "batch_size": 32, "learning_rate": 5e-3}
        | {"threads": 1, "device": "cpu"}
        | training,
        "tracking": {"uri": uri},
    }
    return build_config(tree, where="the test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """Sequences round a ring, and an experiment on them."""
    folder = tmp_path_factory.mktemp("ring")
    prepared(folder / "data", ring(N_ITEMS, 120), N_ITEMS)
    config: ExperimentConfig = configured(folder, sqlite_uri(folder / "mlflow"))
    return config


def poison(patch: pytest.MonkeyPatch) -> None:
    """Data is read with test events that are no items, and its test split cannot be asked for."""
    load, marks = PreparedData.load, PreparedData._marks

    def poisoned(path: Path) -> PreparedData:
        data = load(path)
        values = data.sequences.values.copy()
        values[data.sequences.offsets[:-1] + data.test_start] = 10**6
        return dataclasses.replace(data, sequences=Ragged(values, data.sequences.offsets))

    def refused(data: PreparedData, split: Split) -> Any:  # noqa: ANN401
        assert split != "test", "the tuning looked at test"
        return marks(data, split)

    patch.setattr(PreparedData, "load", poisoned)
    patch.setattr(PreparedData, "_marks", refused)


@pytest.fixture(scope="module")
def whole(world: ExperimentConfig) -> tuple[Tuned, list[str]]:
    """A tuning that nothing interrupted, on poisoned data, and what it said."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        return tune(world, minutes=20, trials=TRIALS, say=said.append), said


def test_ranges_come_from_the_data_and_hold_what_is_given(tmp_path: Path) -> None:
    config = configured(tmp_path, "sqlite:///x.db", {"name": "bert4rec", "max_length": 50, "dropout": 0.6})
    lengths = np.r_[np.zeros(50), np.full(60, 4), np.full(35, 10), np.full(5, 500)].astype(int)
    mask, dropout, length = ranges(config, lengths)
    assert (mask.key, mask.low, mask.high) == ("model.mask_prob", 0.25, 0.7)  # of 4 items a quarter is one
    assert (dropout.low, dropout.high, dropout.given) == (0.0, 0.6, 0.6)
    assert (length.low, length.high, length.given) == (4, 50, 50)
    _, _, length = ranges(config, np.full(100, 3000))
    assert (length.low, length.high) == (50, 200)  # bounded, whatever the histories
    for name, keys in TUNED.items():
        assert len(keys) <= 3
        assert [each.key for each in ranges(configured(tmp_path, "x", name), lengths)] == list(keys)


def test_the_best_of_the_trials_is_written_and_test_is_never_read(
    world: ExperimentConfig, whole: tuple[Tuned, list[str]]
) -> None:
    tuned, said = whole
    assert [trial.number for trial in tuned.trials] == list(range(TRIALS))
    assert tuned.trials[0].settings == GIVEN
    assert len({tuple(trial.settings.values()) for trial in tuned.trials}) == TRIALS
    data = PreparedData.load(world.prepared_path)
    for each in ranges(world, data.training().lengths):
        assert all(each.low <= trial.settings[each.key] <= each.high for trial in tuned.trials)
    assert tuned.best.value == max(trial.value for trial in tuned.trials)
    assert {trial.ended for trial in tuned.trials} == {"complete", "pruned"}
    for trial in tuned.trials:
        assert trial.ended == "pruned" or trial.epochs == world.training.epochs
    written = load_config(tuned.file)
    assert written == tuned_config(world, tuned.best.settings)
    assert written.model.model_dump() | {"mask_prob": 0, "dropout": 0, "max_length": 0} == (
        world.model.model_dump() | {"mask_prob": 0, "dropout": 0, "max_length": 0}
    )
    shown = "\n".join([*said, *tuned.lines(), tuned.file.read_text()])
    assert f"train it: recsys train {tuned.file}" in shown
    assert f"{tuned.best.value:.4f}  complete, the best" in shown
    assert "test" not in shown.replace(str(world.prepared_path.parent), "")
    assert not list(tuned.study.parent.glob("*-trial-*"))  # checkpoints of trials that are done


def test_the_figure_of_a_trial_is_that_of_training_it(
    world: ExperimentConfig, whole: tuple[Tuned, list[str]], tmp_path: Path
) -> None:
    written, data = load_config(whole[0].file), PreparedData.load(world.prepared_path)
    seen: dict[int, float] = {}
    fitted = fit_encoder(
        written.model,  # type: ignore[arg-type]
        written.training,
        training=data.training(),
        n_items=N_ITEMS,
        validation=data.targets("valid"),
        checkpoints=tmp_path,
        on_epoch=lambda epoch, metrics: seen.update({epoch: metrics["ndcg@10"]}),
    )
    assert max(seen.values()) == whole[0].best.value
    assert fitted.best_epoch == whole[0].best.best_epoch


def test_trials_are_runs_below_one_run_and_hold_validation_alone(
    world: ExperimentConfig, whole: tuple[Tuned, list[str]]
) -> None:
    tuned = whole[0]
    with mlflow_session(world.tracking.uri) as client:
        parent = client.get_run(tuned.run_id)
        runs = client.search_runs([parent.info.experiment_id], f"tag.mlflow.parentRunId = '{tuned.run_id}'")
        files = [file.path for file in client.list_artifacts(tuned.run_id)]
        found = {run.info.run_name: run for run in runs}
        points = client.get_metric_history(found["trial 0"].info.run_id, "ndcg_at_10")
    assert set(found) == {f"trial {number}" for number in range(TRIALS)}
    for trial in tuned.trials:
        run = found[f"trial {trial.number}"]
        assert run.data.tags["ended"] == trial.ended
        assert run.data.metrics["valid_ndcg_at_10"] == trial.value
        assert set(run.data.metrics) == {"loss", "ndcg_at_10", "hr_at_10", "valid_ndcg_at_10"}
        assert float(run.data.params["model.dropout"]) == trial.settings["model.dropout"]
        assert run.info.status == "FINISHED"
    assert [point.step for point in points] == list(range(1, 7))
    assert parent.data.metrics == {"valid_ndcg_at_10": tuned.best.value}
    assert parent.data.tags["best_trial"] == str(tuned.best.number)
    assert "tuned.yaml" in files


def test_what_is_done_is_not_done_again(world: ExperimentConfig, whole: tuple[Tuned, list[str]]) -> None:
    said: list[str] = []
    again = tune(world, minutes=20, trials=TRIALS, say=said.append)
    assert again.trials == whole[0].trials
    assert again.run_id == whole[0].run_id
    assert not any("trial" in line for line in said)


def test_an_interrupted_tuning_goes_on_to_the_same_trials(
    world: ExperimentConfig, whole: tuple[Tuned, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_epoch, calls = TrackedRun.log_epoch, []

    def interrupt(run: TrackedRun, epoch: int, metrics: dict[str, float]) -> None:
        calls.append(epoch)
        if len(calls) in (4, 9):
            raise Interruption
        log_epoch(run, epoch, metrics)

    monkeypatch.setattr(TrackedRun, "log_epoch", interrupt)
    said: list[str] = []
    places: dict[str, Any] = {"study": tmp_path / "s.db", "out": tmp_path / "t.yaml"}
    for _ in range(2):
        with pytest.raises(Interruption):
            tune(world, minutes=20, trials=3, say=said.append, **places)
    tuned = tune(world, minutes=20, trials=3, say=said.append, **places)
    assert tuned.trials == whole[0].trials[:3]
    assert calls[:9] == [1, 2, 3, 4, 4, 5, 6, 1, 2]
    assert [line.partition(":")[0] for line in said if "goes on" in line] == [
        "trial 0 goes on",
        "trial 1 goes on",
    ]


def test_a_trial_without_time_is_judged_as_it_is_and_goes_on_later(
    world: ExperimentConfig, whole: tuple[Tuned, list[str]], tmp_path: Path
) -> None:
    places: dict[str, Any] = {"study": tmp_path / "s.db", "out": tmp_path / "t.yaml"}
    tuned = tune(world, minutes=1e-6, **places)
    (only,) = tuned.trials
    assert (only.ended, only.epochs, only.settings) == ("unfinished", 1, GIVEN)
    assert load_config(places["out"]).model == world.model
    assert tune(world, minutes=1e-6, **places).trials == [only]  # no time at all: nothing is trained
    tuned = tune(world, minutes=20, trials=1, **places)
    assert tuned.trials == whole[0].trials[:1]
    other: ExperimentConfig = configured(world.prepared_path.parent, world.tracking.uri, epochs=7)
    with pytest.raises(
        InputError,
        match=r"s\.db is a study of another configuration .*\(training\.epochs was 6, is 7\); tune",
    ):
        tune(other, **places)
    assert tune(world, minutes=20, trials=1, **places).trials == tuned.trials  # nothing was lost


def test_a_step_that_does_not_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("recsys.tuning.trials.time.monotonic", lambda: now)
    clock = trials.Clock(ends=160.0)
    clock.begin()
    assert clock.allows_a_step()
    now = 125.0
    clock.validated()
    assert (clock.step, clock.allows_a_step()) == (25.0, True)
    now = 136.0
    assert not clock.allows_a_step()  # it would end at 161


def test_a_failed_trial_is_told_and_not_tried_again(
    world: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[str, Any] = {"study": tmp_path / "s.db", "out": tmp_path / "t.yaml"}

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(trials, "fit_encoder", broken)
        with pytest.raises(OSError, match="the disk is full"):
            tune(world, trials=1, **places)
    assert not places["out"].exists()
    (only,) = tune(world, minutes=20, trials=1, **places).trials
    assert (only.number, only.ended) == (1, "complete")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "the budget is 0 minutes; expected more than 0, such as --minutes 30"),
        ({"minutes": float("nan")}, "the budget is nan minutes"),
        ({"trials": 0}, "the number of trials is 0; expected 1 or more"),
    ],
)
def test_a_budget_that_is_none_is_refused(
    world: ExperimentConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(world, **options)


def test_what_cannot_be_tuned_is_refused(world: ExperimentConfig, tmp_path: Path) -> None:
    counting = configured(world.prepared_path.parent, "sqlite:///x.db", "markov")
    with pytest.raises(InputError, match="model `markov` counts and has nothing to tune; set model to one"):
        tune(counting)
    weighted = configured(world.prepared_path.parent, "sqlite:///x.db", event_weights={"view": 0.0})
    with pytest.raises(InputError, match=r"training\.event_weights needs the types of events"):
        tune(weighted)
    missing = configured(tmp_path, "sqlite:///x.db")
    with pytest.raises(InputError, match="run `recsys prepare`"):
        tune(missing)
    prepared(tmp_path / "data", Ragged.of([[1, 2], [2, 3]]), 3)
    with pytest.raises(InputError, match="no training sequence has two events"):
        tune(missing)
    assert not (tmp_path / "run").exists()


def test_data_without_validation_is_refused(
    world: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load = PreparedData.load

    def unvalidated(path: Path) -> PreparedData:
        data = load(path)
        return dataclasses.replace(data, valid_start=data.test_start)

    monkeypatch.setattr(PreparedData, "load", unvalidated)
    with pytest.raises(InputError, match="has no valid target; prepare it with a split that holds some out"):
        tune(world, study=tmp_path / "s.db", out=tmp_path / "t.yaml")


def test_a_file_that_is_no_study_is_left_alone(world: ExperimentConfig, tmp_path: Path) -> None:
    database = Path(world.tracking.uri.removeprefix("sqlite:///"))
    text = tmp_path / "notes.txt"
    text.write_text("notes " * 1000)
    for file in (database, text):
        before = file.read_bytes()
        with pytest.raises(InputError, match=f"{file.name} is not a study of `recsys tune`; name another"):
            tune(world, study=file)
        assert file.read_bytes() == before
    with pytest.raises(InputError, match=r"cannot write .*it is a folder"):
        tune(world, study=tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*none; make it"):
        tune(world, out=tmp_path / "none/tuned.yaml")
    with (tmp_path / ".s.db.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another `recsys tune` works on .*s\.db"):
            tune(world, study=tmp_path / "s.db")


def test_a_password_stays_out_of_the_file(world: ExperimentConfig, whole: tuple[Tuned, list[str]]) -> None:
    address = "postgresql://ann:hunter2@db.example.com/mlflow"
    secret = configured(world.prepared_path.parent, address)
    file = whole[0].file.with_name("secret.yaml")
    write_tuned(dataclasses.replace(whole[0], config=secret, file=file))
    assert "hunter2" not in file.read_text()
    assert "set $MLFLOW_TRACKING_URI" in file.read_text()
    assert load_config(file).model == load_config(whole[0].file).model


def test_from_python_and_from_the_command_line(
    tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 40), N_ITEMS)
    sizes = {"name": "sasrec", "dim": 8, "layers": 1}
    quick: dict[str, Any] = {
        "training": {"epochs": 1, "device": "cpu", "threads": 1},
        "tracking": {"uri": tracking_uri},
    }
    tuned = recsys.tune(data, sizes, trials=2, out=tmp_path / "run", **quick)
    assert list(tuned.best.settings) == list(TUNED["sasrec"])
    quick["training"] = tuned.sections["training"]
    model = recsys.train(data, tuned.sections["model"], out=tmp_path / "run", **quick)
    assert model.bundle.manifest["metrics"]["valid_ndcg@10"] == pytest.approx(tuned.best.value, abs=1e-6)

    write_sample(tmp_path / "sample", users=60, playlists=0)
    file, out = tmp_path / "sample.yaml", tmp_path / "tuned.yaml"
    file.write_text(
        f"name: sample\nprepared: {tmp_path / 'prepared'}\noutput: {tmp_path / 'cli'}\n"
        f"data: {{path: {tmp_path / 'sample'}, format: sample}}\nmodel: {{dim: 8, layers: 1}}\n"
        f"training: {{device: cpu, threads: 1}}\ntracking: {{uri: '{tracking_uri}'}}\n"
    )
    app(["prepare", str(file)], standalone_mode=False)
    arguments = [str(file), "training.epochs=1", "--trials", "1", "--out"]
    with pytest.raises(InputError, match="is the configuration itself; name another file"):
        app(["tune", *arguments, str(file)], standalone_mode=False)
    app(["tune", *arguments, str(out)], standalone_mode=False)
    assert f"wrote {out}; train it: recsys train {out}" in capsys.readouterr().out
    assert load_config(out).training.epochs == 1
