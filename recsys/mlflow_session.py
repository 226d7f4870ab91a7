"""The one door to MLflow: imported late, kept quiet, never waited for, and its errors put into words.

Nothing here needs MLflow until a session is opened: importing it takes seconds, and recommending from a
folder needs none of it. Our own defaults (see `DEFAULTS`) stand only where the user's environment is silent.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recsys.config import shown_uri
from recsys.errors import InputError
from recsys.files import alone

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

DEFAULTS = {
    # No calls home. `MLFLOW_DISABLE_TELEMETRY=false` in the environment allows them again.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow waits four minutes for a server that went away; a training has better things to do.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
CONNECT_SECONDS = 5.0
"""How long a server may take to answer before it counts as unreachable."""

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"
_THIRD_PARTY_WARNINGS = (
    r"The ``noload`` loader strategy is deprecated",  # MLflow's table models, under SQLAlchemy 2.1
    r".*Any type hint is inferred as AnyType",  # MLflow's own schemas, at the import of mlflow.pyfunc
    r".*An input example was not provided",  # it would load the model once more; the signature is explicit
)


def metric_key(name: str) -> str:
    """MLflow's name of a metric: it allows no `@`, so `ndcg@10` is recorded as `ndcg_at_10`."""
    return name.replace("@", "_at_")


def metric_name(key: str) -> str:
    """Our name of one of MLflow's metrics, the inverse of `metric_key`."""
    return re.sub(r"_at_(?=\d+$)", "@", key)


def sqlite_file(uri: str) -> Path | None:
    """Absolute path of the database that a `sqlite:///` URI names; None for any other URI."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).split("?")[0]).absolute()


@contextmanager
def mlflow_session(uri: str, *, create: bool = False) -> Iterator[MlflowClient]:
    """A client for the tracking server (and registry) at `uri`, with MLflow's chatter turned down.

    MLflow's process-wide tracking URI is set for the time of the block and put back.

    Args:
        uri: any MLflow tracking URI.
        create: whether a SQLite database that is not there yet may be made.

    Raises:
        InputError: nothing answers at `uri` within `CONNECT_SECONDS`, or MLflow refused what was asked.
    """
    file = sqlite_file(uri)
    target = uri if file is None else f"{_SQLITE}{file}"
    _check_reachable(target, create=create)
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    with _quiet():
        import mlflow
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        set_before = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        before = mlflow.get_tracking_uri() if set_before else None
        mlflow.set_tracking_uri(target)
        try:
            # MLflow makes missing tables here, and of two processes that make them at once both would fail.
            with nullcontext() if file is None else alone(file.parent):
                client = mlflow.MlflowClient(target)
                if file is not None:
                    client.search_registered_models(max_results=1)
            yield client
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"MLflow at {shown_uri(uri)} failed: {reason}; check `tracking.uri` and what runs there"
            ) from error
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None unsets it


def artifact_folder(tracking_uri: str) -> Path | None:
    """Where files go when the tracking URI is an SQLite file: `mlruns/` next to it, wherever one stands.

    A server keeps files where it was told to: None.
    """
    database = sqlite_file(tracking_uri)
    return None if database is None else database.parent / "mlruns"


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run of that id, or None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def experiment_named(client: MlflowClient, name: str, artifacts: Path | None) -> Experiment:
    """The experiment of that name, made when it is new.

    Args:
        client: the session's.
        name: of the experiment.
        artifacts: folder for the files of a new experiment's runs; None leaves it to the server.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifacts is None else (artifacts / name).as_uri()
        found = client.get_experiment(client.create_experiment(name, artifact_location=location))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide third parties' progress messages and one known deprecation; errors still raise.

    A level asked for with MLFLOW_LOGGING_LEVEL stays.
    """
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    with warnings.catch_warnings():
        for message in _THIRD_PARTY_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        import mlflow  # noqa: F401 -- sets its loggers up, which must come before ours

        levels = [logger.level for logger in loggers]
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check_reachable(uri: str, *, create: bool) -> None:
    """Fail within seconds where MLflow itself would retry for minutes."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri, create=create)
    elif scheme in ("http", "https"):
        _check_server(uri)
    elif scheme in _PORTS and parts.hostname:
        _check_port(uri, parts.hostname, parts.port or _PORTS[scheme])
    elif scheme == "file" or (not scheme and uri not in ("databricks", "uc")):
        raise InputError(
            f"tracking.uri `{uri}` is a folder, and MLflow 3 records nothing in plain files; "
            "expected a database or a server: sqlite:///mlflow.db or http://HOST:PORT"
        )


def _check_sqlite(uri: str, *, create: bool) -> None:
    file = sqlite_file(uri)
    if file is None:
        raise InputError(f"tracking.uri `{uri}` names no database file; expected sqlite:///mlflow.db")
    if file.exists():
        with file.open("rb") as stream:
            start = stream.read(16)
        if start and start != b"SQLite format 3\0":
            raise InputError(f"{file} is not an SQLite database; give tracking.uri another file")
    elif not create:
        raise InputError(
            f"there is no tracking database {file}; `recsys train` makes one: run from the folder that it "
            "ran in, or give its tracking.uri"
        )
    elif not os.access(file.parent, os.W_OK):
        raise InputError(
            f"the tracking database {file} cannot be made: {file.parent} is missing or not writable; create "
            "the folder, or set tracking.uri to another place"
        )


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(address, timeout=CONNECT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        # A server that refuses this page (401, 404) is there; MLflow will say what it thinks of our request.
        if error.code < 500:
            return
        reason = f"it answers {error.code}"
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return
        reason = str(error.reason)
    except OSError as error:
        reason = str(error)
    raise _unreachable(uri, reason)


def _check_port(uri: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(uri, str(error)) from error


def _unreachable(uri: str, reason: str) -> InputError:
    return InputError(
        f"no tracking server answers at {shown_uri(uri)} ({reason}); start it (`mlflow server`), "
        "or set tracking.uri to one that runs, such as sqlite:///mlflow.db"
    )
