"""One small world of histories and a model for every test of the export."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.dataset import PreparedData
from recsys.recommender import Recommender
from tests.export.world import world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[PreparedData, Recommender]:
    return world(folder)


@pytest.fixture(scope="module")
def data(made: tuple[PreparedData, Recommender]) -> PreparedData:
    return made[0]


@pytest.fixture(scope="module")
def recommender(made: tuple[PreparedData, Recommender]) -> Recommender:
    return made[1]
