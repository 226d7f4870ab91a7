from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

import recsys  # noqa: F401 -- before torch: it says how threads wait
from tests.mlflow_world import sqlite_uri

# A shared machine may be slow for a moment; a test that hangs is caught by the suite's own limit.
settings.register_profile("recsys", deadline=None, max_examples=50)
settings.load_profile("recsys")

LONGEST = ("test_readme.py", "test_spark.py", "test_nightly.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the suite's processes end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty MLflow database of this test, and a cache of its own for what is downloaded from it."""
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "cache"))
    return sqlite_uri(tmp_path / "a folder")
