"""Imports point one way: data_prep and serving rest on recsys, and only its command line knows them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("recsys", "data_prep", "serving")
OPEN_TO_DATA_PREP = {"schema", "vocabulary", "config", "errors", "files"}
TRAINING_SIDE = {
    "training",
    "trainer",
    "recformer_fit",
    "recformer_training",
    "experiment",
    "origins",
    "report",
    "batching",
    "objectives",
    "steps",
    "warm_start",
    "torch_settings",
    "losses",
    "tracking",
    "tuning",
    "registry",
    "quickstart",
}


def imported(file: Path) -> set[tuple[str, str]]:
    """(room, module) of every import of one of the rooms, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            room, _, rest = name.partition(".")
            if room in ROOMS:
                found.add((room, rest.partition(".")[0]))
    return found


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("file", files("recsys"), ids=lambda file: file.name)
def test_the_library_knows_no_other_room(file: Path) -> None:
    others = {room for room, _ in imported(file)} - {"recsys"}
    assert others == set() if not file.name.startswith("cli") else others <= {"data_prep", "serving"}


@pytest.mark.parametrize("file", files("data_prep"), ids=lambda file: file.name)
def test_data_preparation_uses_the_contracts_alone(file: Path) -> None:
    pairs = imported(file)
    assert "serving" not in {room for room, _ in pairs}
    assert {module for room, module in pairs if room == "recsys" and module} <= OPEN_TO_DATA_PREP


@pytest.mark.parametrize("file", files("serving"), ids=lambda file: file.name)
def test_serving_never_reaches_the_training_side(file: Path) -> None:
    pairs = imported(file)
    assert "data_prep" not in {room for room, _ in pairs}
    assert not {module for room, module in pairs if room == "recsys"} & TRAINING_SIDE


@pytest.mark.parametrize("file", sorted((ROOT / "recsys").glob("cli*.py")), ids=lambda file: file.name)
def test_the_command_line_imports_the_other_rooms_inside_its_commands_only(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith(("data_prep", "serving"))]


def test_serving_starts_light() -> None:
    heavy = "{'lightning', 'pytorch_lightning', 'mlflow', 'polars', 'pandas', 'matplotlib'}"
    script = f"import sys, serving.app, serving.server; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
