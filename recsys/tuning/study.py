"""The study file: every trial of a tuning with its validations, kept by Optuna in SQLite.

A study belongs to one configuration and one data set, one process at a time works on it, and what that one
leaves half done the next goes on with.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from recsys.config import setting_differences
from recsys.errors import InputError

NAME = "tune"
RANDOM_TRIALS = 4
"""Trials, the first among them, before the sampler trusts what it has seen."""
UNPRUNED_TRIALS = 2
"""Finished trials before one may be pruned."""


@contextmanager
def open_study(file: Path, identity: dict[str, Any], epochs: int) -> Iterator[optuna.Study]:
    """The study in a file, made when there is none; nobody else can open it meanwhile.

    Pruned is what after a third of the epochs is worse than the median of the finished trials was there.

    Args:
        file: SQLite; its folder must be there.
        identity: JSON values that the trials depend on, such as the configuration and the data's digest.
        epochs: of a whole trial.

    Raises:
        InputError: the file is something else, or of another identity, or another process works on it.
    """
    with _lock(file):
        _check_file(file)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}")
        try:
            pruner = optuna.pruners.MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=epochs // 3)
            study = _create(storage, pruner)
            stored = study.user_attrs.get("identity", {})
            differences = setting_differences(stored, identity)
            if differences and judged(study):
                raise InputError(
                    f"{file} is a study of another configuration or other data ({'; '.join(differences)}); "
                    "tune with those, name another study, or delete this one"
                )
            if differences and stored:  # without a single validation it is no loss
                optuna.delete_study(study_name=NAME, storage=storage)
                study = _create(storage, pruner)
            study.set_user_attr("identity", identity)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()
            optuna.logging.set_verbosity(verbosity)


def interrupted(study: optuna.Study) -> optuna.Trial | None:
    """The trial that was under way when the study was last left, to go on with."""
    found = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return optuna.Trial(study, found[0]._trial_id) if found else None


def next_trial(study: optuna.Study, given: dict[str, float], seed: int) -> optuna.Trial:
    """A new trial: the first of the given settings, the others drawn.

    What is drawn depends on the seed, the trial's number and the trials before it alone.
    """
    number = len(study.get_trials(deepcopy=False))
    if not number:
        study.enqueue_trial(given)
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=drawn)
    return study.ask()


def validations(study: optuna.Study, number: int) -> dict[int, float]:
    """Epoch -> NDCG@10 on validation of a trial so far."""
    return study.get_trials(deepcopy=False)[number].intermediate_values


def countable(study: optuna.Study) -> int:
    """How many trials there are, failed ones apart."""
    return sum(trial.state != TrialState.FAIL for trial in study.get_trials(deepcopy=False))


def judged(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have been validated at least once."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.with_name(f".{file.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another `recsys tune` works on {file}; wait for it, or name another study"
            ) from error
        yield


def _check_file(file: Path) -> None:
    """Refuse a file that Optuna did not make: it would add its tables to any database."""
    if not file.exists() or not file.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError:
        tables = set()
    if not {"studies", "trials"} <= tables:
        raise InputError(f"{file} is not a study of `recsys tune`; name another file")


def _create(storage: optuna.storages.RDBStorage, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    return optuna.create_study(
        storage=storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=pruner
    )
