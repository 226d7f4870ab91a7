"""A tiny world recorded in real MLflow: helpers of the tracking and registry tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.bundle import save_bundle
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.mlflow_session import mlflow_session
from recsys.models import fit_counting
from recsys.sequences import Ragged
from recsys.tracking import track_run
from recsys.vocabulary import vocabulary_of

DIGEST = "0123456789abcdef" * 4
NAME = "tiny world"


@functools.cache
def migrated_database() -> Path:
    """A migrated, empty database: MLflow takes seconds to make one, so the tests copy this one."""
    folder = tempfile.mkdtemp(prefix="recsys-tests-")
    atexit.register(shutil.rmtree, folder)
    file = Path(folder) / "mlflow.db"
    with mlflow_session(f"sqlite:///{file}", create=True) as client:
        client.search_experiments()
    return file


def sqlite_uri(folder: Path) -> str:
    """Tracking URI of an empty database in a new folder."""
    folder.mkdir()
    shutil.copy(migrated_database(), folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def prepared(digest: str = DIGEST) -> PreparedData:
    ids = [f"item-{i}" for i in range(1, 7)]
    items = pa.table({"index": pa.array(range(1, 7), pa.int32()), "id": ids, "count": pa.array([1] * 6)})
    marks = [np.full(3, mark, np.int32) for mark in (2, 2, 3)]
    rows = Ragged.of([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]])
    manifest = {"name": NAME, "content_digest": digest, "counts": {"items": 6, "events": 12}}
    path = Path("prepared/tiny")
    return PreparedData(path, manifest, vocabulary_of(ids), items, pa.array(list("abc")), rows, None, *marks)


def configured(uri: str, model: str = "markov", **more: object) -> ExperimentConfig:
    tree = {"name": NAME, "data": {"path": "log.csv"}, "model": model, "tracking": {"uri": uri}} | more
    return build_config(tree, where="the test")


def bundle(
    folder: Path, model: str = "markov", metrics: dict[str, float] | None = None, digest: str = DIGEST
) -> Path:
    data, config = prepared(digest), configured("sqlite:///mlflow.db", model)
    fitted = fit_counting(config.model, data.training(), None, 6)
    return save_bundle(
        folder,
        config=config,
        model=fitted,
        data=data,
        metrics=metrics or {},
        trained_on="training",
        best_epoch=None,
    )


def logged(uri: str, folder: Path) -> tuple[str, str]:
    """Run id and version of a run that recorded this bundle."""
    with track_run(configured(uri), prepared().manifest) as run:
        version = run.log_bundle(folder)
    return run.run_id, version


def run_python(code: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a real `mlflow server` that keeps everything in `folder`."""
    store = sqlite_uri(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"-m mlflow server --host 127.0.0.1 --port {port} --workers 1 --backend-store-uri".split()
    stores = [store, "--artifacts-destination", str(folder / "artifacts")]
    # The job runner is three more processes that nothing here needs.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *stores], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address, process
    finally:
        process.terminate()
        process.wait(timeout=20)
