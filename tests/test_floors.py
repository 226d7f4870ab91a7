from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.config import TextKNNConfig
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.floors import FLOORS, TEXT_FLOORS, measure_floors
from recsys.models import fit_counting
from recsys.sequences import Ragged
from tests.benchmarks import results
from tests.benchmarks.measure import Board, measure_floor
from tests.worlds import prepared, ring

EVERY = FLOORS | TEXT_FLOORS


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Walks round a ring of 12: the next item is known, and often one of the history."""
    return prepared(tmp_path_factory.mktemp("floors") / "ring", ring(12, 150), 12)


def walks_without_repeats(n_items: int, n_sequences: int) -> Ragged:
    rng = np.random.default_rng(1)
    return Ragged.of([rng.permutation(n_items)[: rng.integers(3, 9)] + 1 for _ in range(n_sequences)])


def test_floors_are_what_the_evaluation_of_each_model_says(repeating: PreparedData) -> None:
    table = measure_floors(repeating, "valid")
    assert [floor.label for floor in table.floors] == list(EVERY)
    training, times = repeating.training(), repeating.training_times()
    for floor in table.floors:
        model = fit_counting(EVERY[floor.label], training, times, 12, repeating.items)
        for found, exclude_seen in ((floor.removed, True), (floor.kept, False)):
            expected = evaluate(model, repeating, split="valid", exclude_seen=exclude_seen).metrics
            if found is None:
                assert (floor.label, exclude_seen) == ("history replay", True)
            else:
                assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-12)


def test_the_floor_to_beat_is_the_best_under_each_rule(repeating: PreparedData) -> None:
    table = measure_floors(repeating)
    kept = table.best(keep_seen=True)
    assert kept is not None and kept.kept is not None
    assert kept.label.startswith("Markov chain")  # the world is one
    assert kept.kept == {"hr@10": 1.0, "ndcg@10": 1.0}
    lines = "\n".join(table.lines())
    assert f"the floor to beat with seen kept is {kept.label}: HR@10 1.0000, NDCG@10 1.0000" in lines
    assert f"{table.repeated_targets:,} repeated targets are misses for every model" in lines
    removed = table.best()
    assert removed is not None and removed.removed is not None
    assert removed.removed["hr@10"] <= 1 - table.repeated_targets / table.users
    assert table.to_json()["to_beat"] == {"seen removed": removed.label, "seen kept": kept.label}


def test_a_model_that_the_data_does_not_allow_is_left_out(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", walks_without_repeats(40, 60), 40, timed=False)
    table = measure_floors(data)
    labels = {floor.label for floor in table.floors}
    assert set(EVERY) - labels == {"recent popularity, 7 days", "history replay"}
    assert table.repeated_targets == 0
    assert table.best(keep_seen=True) is None
    assert "seen kept" not in "\n".join(table.lines())


def test_titles_without_a_word_are_no_text_to_count(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", walks_without_repeats(40, 60), 40)
    columns = {"title": pa.array([" " if row % 2 else "-" for row in range(40)])}
    ids = ["index", "id", "count"]
    blank = replace(data, items=pa.table({name: data.items[name] for name in ids} | columns))
    assert "text-kNN" not in {floor.label for floor in measure_floors(blank).floors}
    with pytest.raises(InputError, match="`text_knn` compares words, and no item has one in title"):
        fit_counting(TextKNNConfig(), blank.training(), None, 40, blank.items)
    with pytest.raises(InputError, match="names `titel`, which the item table lacks"):
        fit_counting(TextKNNConfig(attributes=("titel", "title")), data.training(), None, 40, data.items)


def test_a_split_without_targets_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1], [2]]), 3)
    with pytest.raises(InputError, match="has no test target"):
        measure_floors(data)


def test_the_benchmark_keeps_the_same_figures_unrounded(tmp_path: Path) -> None:
    """What the README rounds is what `recsys floors` rounds."""
    data = prepared(tmp_path / "data", ring(40, 97), 40)
    board = Board(data, "ring", tmp_path / "results.jsonl", [("full", "removed")])
    for label, config in EVERY.items():
        measure_floor(label, config, board)
    rows = {row["model"]: row["metrics"] for row in results.read(board.file)}
    for floor in measure_floors(data).floors:
        if floor.removed is not None:
            assert {name: rows[floor.label][name]["mean"] for name in floor.removed} == pytest.approx(
                floor.removed, rel=1e-12
            )


def recsys(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recsys.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_one_command_prints_and_writes_the_table(repeating: PreparedData, tmp_path: Path) -> None:
    done = recsys("floors", repeating.path, "--split", "valid", "--json", "floors.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "floors.json").read_text())
    assert written["split"] == "valid"
    assert [row["label"] for row in written["rows"]] == list(EVERY)
    assert f"the floor to beat with seen kept is {written['to_beat']['seen kept']}" in done.stdout
    wrong = recsys("floors", repeating.path, "--split", "train", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "error: split `train` is unknown; known: valid, test\n")


def test_a_configuration_is_prepared_where_it_is_not_yet(tmp_path: Path) -> None:
    log = walks_without_repeats(12, 30)
    lines = [" ".join(map(str, [row, *log[row].tolist()])) for row in range(len(log))]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    config = tmp_path / "walks.yaml"
    config.write_text("name: walks\ndata: {path: log.txt, format: sequences}\n")
    first = recsys("floors", config, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "leave_one_out" in first.stdout
    assert (tmp_path / "prepared/walks/manifest.json").is_file()
    again = recsys("floors", config, cwd=tmp_path)
    assert "leave_one_out" not in again.stdout
    assert [line for line in again.stdout.splitlines() if "floor to beat" in line] == [
        line for line in first.stdout.splitlines() if "floor to beat" in line
    ]


@pytest.mark.parametrize("command", ["floors", "train"])
def test_a_stale_preparation_is_not_used_silently(command: str, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("\n".join(f"{row} {row + 1} {row + 2} {row + 3} 9" for row in range(1, 6)) + "\n")
    config = tmp_path / "walks.yaml"
    config.write_text("name: walks\ndata: {path: log.txt, format: sequences}\nmodel: {name: markov}\n")
    assert recsys("prepare", config, cwd=tmp_path).returncode == 0
    assert recsys(command, config, cwd=tmp_path).returncode == 0
    log.write_text(log.read_text() + "6 1 2 3\n")
    stale = recsys(command, config, cwd=tmp_path)
    folder = Path("prepared/walks")
    assert (stale.returncode, stale.stdout) == (2, "")
    assert f"error: {folder} was prepared on " in stale.stderr
    assert f"from other input than log.txt now holds; delete {folder} and run `recsys prep" in stale.stderr
    log.unlink()
    gone = recsys(command, config, cwd=tmp_path)
    assert gone.returncode == 0, gone.stderr
    assert "note: the data that was prepared on 2" in gone.stdout
    assert f"in {folder} is used: there is no file log.txt; set data.path to where" in gone.stdout
