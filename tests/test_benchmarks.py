"""The benchmark harness: what it measures once it never measures again, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sample import write_sample
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.floors import FLOORS
from recsys.history import read_history
from recsys.sequences import Ragged
from tests.benchmarks import export_speed, peers, prepare_scale, results
from tests.benchmarks.measure import rules_of
from tests.benchmarks.readme import quality, rendered
from tests.benchmarks.run import main, training_seconds
from tests.worlds import prepared

ROOT = Path(__file__).parent.parent
SMALL = [
    "model.dim=16",
    "model.layers=1",
    "training.epochs=6",
    "training.validate_every=1",
    "training.threads=1",
]


def row(model: str = "popularity", seed: int = 0, ndcg: float = 0.1, **fields: Any) -> results.Row:  # noqa: ANN401
    metrics = {name: {"mean": ndcg, "low": ndcg / 2, "high": ndcg * 2} for name in ("hr@10", "ndcg@10")}
    known = {"data": "d", "digest": "abc", "library": "recsys", "settings": "s", "split": "test"}
    rule = {"protocol": "full", "seen_items": "removed", "metrics": metrics, "seconds": 1.0, "versions": {}}
    return results.new_row(**{**known, **rule, "model": model, "seed": seed, **fields})


def test_a_row_is_added_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.jsonl"
    assert results.read(file) == []
    assert results.add(file, row(seed=0))
    assert results.add(file, row(seed=1))
    assert not results.add(file, row(seed=0, ndcg=0.9))
    assert [found["seed"] for found in results.read(file)] == [0, 1]
    assert results.read(file)[0]["metrics"]["ndcg@10"]["mean"] == 0.1
    with pytest.raises(ValueError, match="a row needs metrics"):
        results.new_row(**dict.fromkeys(results.KEY, "x"), seconds=1, versions={})


def test_a_file_cut_anywhere_is_read_and_added_to(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    rows = [row("första", seed) for seed in range(3)]
    for each in rows:
        results.add(file, each)
    content = file.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in [*range(0, len(content), 41), *(end - 1 for end in ends), *ends]:
        file.write_bytes(content[:cut])
        whole = sum(end <= cut + 1 for end in ends)  # a line that lacks only its newline is whole
        assert results.read(file) == rows[:whole]
        assert results.add(file, row("next"))
        assert [found["model"] for found in results.read(file)] == ["första"] * whole + ["next"]
        assert file.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"data": "ml-100k", "model": "popularity"}', r"line 2 is of format None; expected format 2"),
        ('{"format": 3}', r"line 2 is of format 3; expected format 2: name another results file"),
        ("[1, 2]", "line 2 is of format None"),
        ('{"format": 2, "data": "d"}', r"line 2 has no digest, library"),
        ("half a li", "line 2 is not JSON"),
    ],
)
def test_a_file_of_another_format_is_refused_and_left_alone(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "results.jsonl"
    results.add(file, row())
    content = file.read_text() + line + "\n"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        results.read(file)
    with pytest.raises(InputError, match=message):
        results.add(file, row(seed=9))
    assert file.read_text() == content


def test_rules_are_full_by_repeat_rule_and_sampled_once() -> None:
    assert rules_of("pop-100,full", "kept,removed") == [
        ("full", "removed"),
        ("full", "kept"),
        ("pop-100", "removed"),
    ]
    with pytest.raises(InputError, match="rule `pop-10` is unknown; known: full, pop-100, uniform-100"):
        rules_of("pop-10", "kept")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, users=250, playlists=0)
    return folder


NAMED = "BERT4Rec, width 16"


def command(sample: Path, folder: Path, *options: str) -> list[str]:
    places = ["--work", str(folder / "work"), "--results", str(folder / "results.jsonl")]
    overrides = [f"data.path={sample}", f"prepared={folder / 'prepared'}", *SMALL]
    return ["--config", str(ROOT / "configs/sample.yaml"), *places, *options, *overrides]


def test_a_killed_benchmark_goes_on_where_it_stopped(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(sample, tmp_path, "--seeds", "1")
    started = [sys.executable, "-m", "tests.benchmarks.run", *arguments]
    process = subprocess.Popen(started, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    history = tmp_path / "no such file"
    while not history.exists() or history.read_text().count("\n") < 2:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        history = next((tmp_path / "work").glob("sample/bert4rec-*/history.jsonl"), history)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before, epochs = (tmp_path / "results.jsonl").read_bytes(), history.read_text().splitlines()[:2]
    floors = {found["model"] for found in results.read(tmp_path / "results.jsonl")}
    assert floors == set(FLOORS) - {"history replay"}  # which answers with seen items alone

    main(arguments)
    rows = results.read(tmp_path / "results.jsonl")
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    assert len(results.keys(rows)) == len(rows) == len(floors) + 1
    trained = rows[-1]
    assert (trained["model"], trained["protocol"], trained["seen_items"]) == (NAMED, "full", "removed")
    assert [found["epoch"] for found in read_history(history.parent)] == [1, 2, 3, 4, 5, 6]
    assert history.read_text().splitlines()[:2] == epochs  # the first epochs were not trained again
    earlier = json.loads((history.parent / "attempt.json").read_text())["before"]
    assert trained["seconds"] > earlier > 0
    assert 0 < trained["metrics"]["ndcg@10"]["low"] < trained["metrics"]["ndcg@10"]["mean"]
    best = max(rows[:-1], key=lambda found: found["metrics"]["ndcg@10"]["mean"])
    above = trained["metrics"]["ndcg@10"]["mean"] - best["metrics"]["ndcg@10"]["mean"]
    assert trained["above_floor"]["floor"] == best["model"]
    assert trained["above_floor"]["ndcg@10"]["mean"] == pytest.approx(above, abs=1e-6)

    content = (tmp_path / "results.jsonl").read_bytes()
    capsys.readouterr()
    main(arguments)  # everything is there
    assert (tmp_path / "results.jsonl").read_bytes() == content
    assert capsys.readouterr().out == ""
    main([*arguments, "--seen-items", "kept"])
    added = results.read(tmp_path / "results.jsonl")[len(rows) :]
    assert {found["model"] for found in added} == {*FLOORS, NAMED}
    assert {found["seen_items"] for found in added} == {"kept"}
    assert added[-1]["seconds"] == trained["seconds"]  # the model was there: nothing was trained again
    asked = (tmp_path / "results.jsonl", "sample", trained["digest"])
    assert training_seconds(*asked, trained["settings"]) == round(trained["seconds"])
    with pytest.raises(InputError, match="no row of our own encoder with these settings"):
        training_seconds(*asked, "other settings")


def test_bad_usage_is_one_line_before_anything_is_trained(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(command(sample, tmp_path, *options))
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "`GRU` in --models is unknown; known: none, floors, text-floors, BERT4Rec" in refusal(
        "--models", "GRU"
    )
    assert "`implicit` in --peers implicit is unknown" in refusal("--models", "none", "--peers", "implicit")
    assert "has no data set sample; known: ml-100k" in refusal("--models", "none", "--peers", "replay")
    assert "there is no" in refusal("--measured-apart", str(tmp_path / "none.jsonl"))
    assert not (tmp_path / "results.jsonl").exists()
    (tmp_path / "results.jsonl").write_text('{"model": "popularity"}\n')
    assert "line 1 is of format None; expected format 2" in refusal("--models", "floors")
    assert not (tmp_path / "work").exists()


def test_a_generated_log_is_prepared_and_becomes_a_line_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--events", "3000", "--work", str(tmp_path), "--results", str(tmp_path / "rows.jsonl")]
    prepare_scale.main([*options, "--plot", str(tmp_path / "rows.svg")])
    assert "<svg" in (tmp_path / "rows.svg").read_text()
    assert "3,000 events: " in capsys.readouterr().out
    (found,) = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    counts = found["counts"]
    assert (counts["events_read"], counts["sequences"]) == (3000, 120)
    assert 2950 < counts["events"] < 3000  # the copies have gone
    assert (
        found["peak_mib"] > 100
    )  # no upper bound: a child's peak counts what its parent held when it was made
    peer = {"cpu_seconds": 3.2, "peak_mib": 1024}
    line = prepare_scale.table(
        [{**found, "events": 1}, {**found, "seconds": 9.6, "peak_mib": 512, "replay": peer}]
    )
    assert line.splitlines()[-1].startswith("| 3,000 | 120, 11, ")
    assert f"| 10 s | {found['cpu_seconds']:.0f} s | 0.50 GiB |  | 3 s, 1.00 GiB |" in line
    again = tmp_path / "again.csv"
    prepare_scale.write_log(again, 3000)
    assert again.read_bytes() == (tmp_path / "events-3000.csv").read_bytes()


LIBRARY = '''
"""A library whose model knows what follows on the ring, in the form of the public ones' scripts."""
import json, os, sys
import numpy as np, torch
root = os.environ["BENCH_DIR"]
with np.load(f"{root}/data/{sys.argv[1]}.npz") as file:
    off, items, n_items = file["off"], file["items"], int(file["n_items"])
with open(f"{root}/runs.txt", "a") as runs:
    runs.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[3] == "13":
    raise RuntimeError("no luck")
U = len(off) - 1
test_h = [items[off[u] : off[u + 1] - 1] for u in range(U)]
table = np.random.default_rng(0).normal(size=(n_items, n_items)).astype(np.float32)
table[np.arange(n_items), (np.arange(n_items) + 1) % n_items] += 2
def logits(users, histories): return torch.from_numpy(table[[histories[u][-1] for u in users]])
scores = logits(range(U), test_h).numpy().copy()
for u in range(U): scores[u, test_h[u]] = -np.inf
lists = np.argsort(-scores, axis=1)[:, :100]
os.makedirs(f"{root}/topk", exist_ok=True)
np.save(f"{root}/topk/replay_bert4rec_{sys.argv[1]}.npy", lists.astype(np.int32))
hit = lists == items[off[1:] - 1][:, None]
rank = np.where(hit.any(1), hit.argmax(1), 10**9)
said = {"kind": "train", "train_s": 1.5, "epochs": 3, "best_at": [1.0, 2], "version": "1.0", "torch": "2"}
print("ROW", json.dumps(said))
ndcg = float(np.where(rank < 10, 1 / np.log2(rank + 2.0), 0).mean())
print("ROW", json.dumps({"kind": "quality", "HR@10": float((rank < 10).mean()), "NDCG@10": ndcg}))
'''


@pytest.fixture
def world(tmp_path: Path) -> list[str]:
    """Arguments for 80 users on a ring of 150 items, and a library's scripts and environment."""
    rng = np.random.default_rng(0)
    users, names = rng.permutation(np.arange(1, 81)), rng.permutation(np.arange(1, 151)) * 7
    walks = [(rng.integers(150) + np.arange(rng.integers(4, 12))) % 150 for _ in users]
    walks[:4] = np.arange(152).reshape(4, 38) % 150  # every item stands in the log
    lines = [f"{user} {' '.join(map(str, names[walk]))}" for user, walk in zip(users, walks, strict=True)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines) + "\n")
    by_user = [np.searchsorted(np.sort(names), names[walks[place]]) for place in np.argsort(users)]
    (tmp_path / "bench-out/data").mkdir(parents=True)
    ragged = Ragged.of(by_user)
    file = tmp_path / "bench-out/data/lastfm.npz"
    np.savez(file, off=ragged.offsets, items=ragged.values.astype(np.int64), n_items=150)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/run_replay.py").write_text(LIBRARY)
    python = tmp_path / "bench-out/replay/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "lastfm.yaml").write_text(
        f"name: lastfm\nprepared: {tmp_path / 'prepared'}\n"
        f"data: {{path: {tmp_path / 'sequences.txt'}, format: sequences}}\n"
    )
    places = {"work": "work", "results": "results.jsonl", "bench": "bench", "bench-dir": "bench-out"}
    options = [word for name, place in places.items() for word in (f"--{name}", str(tmp_path / place))]
    return ["--config", str(tmp_path / "lastfm.yaml"), "--models", "none", "--peers", "replay", *options]


def test_a_library_is_trained_once_and_scored_alike_three_ways(
    world: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*world, "--seconds", "2", "--protocols", "full,pop-100"])
    full, sampled = results.read(tmp_path / "results.jsonl")
    assert (full["library"], full["model"], full["seconds"], full["epochs"]) == ("RePlay", "BERT4Rec", 1.5, 3)
    for name, value in full["own_metrics"].items():
        assert 0 < value < 1
        assert full["metrics"][name]["mean"] == pytest.approx(value, abs=1e-6)
        assert full["by_lists"][name] == pytest.approx(value, abs=1e-6)
    assert set(full["own_metrics"]) == {"hr@10", "ndcg@10"}
    assert sampled["metrics"]["ndcg@10"]["mean"] > full["metrics"]["ndcg@10"]["mean"]
    assert "by us from its top-100 lists" in capsys.readouterr().out
    main([*world, "--seconds", "2", "--protocols", "full,pop-100,uniform-100"])
    assert [found["protocol"] for found in results.read(tmp_path / "results.jsonl")][2:] == ["uniform-100"]
    assert (tmp_path / "bench-out/runs.txt").read_text() == "lastfm bert4rec 2 --seed 0 --patience 1000\n"
    script = tmp_path / "bench/run_replay.py"
    script.write_text(
        LIBRARY + "# embedding_dim=64 block_count=2, head_count=2, hidden_size=64 dropout_rate=0.2"
    )
    main([*world, "--seconds", "2", "--peers", "replay/bert4rec/documented"])
    assert results.read(tmp_path / "results.jsonl")[-1]["settings"].startswith("documented size, 2 s")
    script.write_text(LIBRARY)
    with pytest.raises(SystemExit):
        main([*world, "--seconds", "3", "--peers", "replay/bert4rec/documented"])
    assert "the script does not say `embedding_dim=64`" in capsys.readouterr().err


def test_a_library_that_fails_or_is_not_there_is_named(
    world: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        with pytest.raises(SystemExit):
            main([*world, *options])
        return capsys.readouterr().err

    assert (
        "no row of our own encoder with these settings on lastfm; measure it first, or give --seconds"
        in refusal()
    )
    failed = refusal("--seconds", "13")
    assert "run_replay.py failed with exit code 1: RuntimeError: no luck; see" in failed
    assert results.read(tmp_path / "results.jsonl") == []
    assert "rectools/bin/python; make it with BENCH_DIR=" in refusal("--seconds", "2", "--peers", "rectools")
    file = tmp_path / "bench-out/data/lastfm.npz"
    with np.load(file) as found:
        content = dict(found)
    content["items"][3] += 1
    np.savez(file, **content)
    assert "lastfm.npz holds other sequences than" in refusal("--seconds", "2")
    file.unlink()
    assert "lastfm.npz; the benchmark's setup.sh makes it" in refusal("--seconds", "2")


def test_lists_rank_as_they_stand(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[4, 5, 1, 2], [5, 4, 1, 3]]), 150, strings=False)
    lists = np.array([[7, 8, 1, *range(20, 117)], [2, *range(20, 118), -1]], dtype=np.int32)
    scores = peers.list_scores(lists, 150)
    assert (scores[0, 7], scores[0, 1], scores[0, 116], scores[1, 149]) == (100, 98, 1, 0)
    order = peers.Order(np.arange(2), np.arange(150))
    found = evaluate(peers.recorded(scores, data, order), data, scores_cold=True)
    assert found.per_user["mrr@5"].tolist() == pytest.approx([1 / 3, 1])


def test_rows_measured_apart_are_taken_over(tmp_path: Path) -> None:
    quality_row = {
        "kind": "quality",
        "peer": "rectools",
        "model": "sasrec",
        "dataset": "ml-100k",
        "budget_s": 340.0,
        "train_s": 347.3,
        "best_at": [300.0, 37],
        "n_users": 943,
        "HR@10": 0.1,
        "NDCG@10": 0.05,
    }
    lines = [
        {**quality_row, "kind": "train", "version": "0.19", "torch": "2"},
        quality_row,
        {**quality_row, "peer": "baseline"},
        {**quality_row, "dataset": "lastfm"},
    ]
    (tmp_path / "apart.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = peers.measured_apart(tmp_path / "apart.jsonl", "ml-100k")
    assert (found["library"], found["model"], found["digest"]) == ("RecTools", "SASRec", None)
    assert found["metrics"] == {"hr@10": {"mean": 0.1}, "ndcg@10": {"mean": 0.05}}
    assert found["versions"] == {"RecTools": "0.19", "torch": "2"}
    assert "| RecTools SASRec (measured apart) | 0.1000 | 0.0500 |  |  | full |" in quality(
        [found], "ml-100k"
    )


def test_tables_are_made_of_the_newest_settings_of_one_rule(tmp_path: Path) -> None:
    rows = [
        row("BERT4Rec", 0, 0.9, settings="old", best_epoch=3),
        row("BERT4Rec", 0, 0.2, best_epoch=3, above_floor={"ndcg@10": {"low": 0.01, "high": 0.02}}),
        row("BERT4Rec", 1, 0.4, best_epoch=3, above_floor={"ndcg@10": {"low": 0.03, "high": 0.06}}),
        row("SASRec", ndcg=0.6, best_epoch=3, above_floor={"ndcg@10": {"low": -0.01, "high": 0.02}}),
        row("popularity", ndcg=0.1),
        row("popularity", ndcg=0.5, seen_items="kept"),
        row("popularity", ndcg=0.6, data="other"),
    ]
    for each in rows:
        results.add(tmp_path / "results.jsonl", each)
    text = "a\n<!-- table d -->\n<!-- end -->\nb\n<!-- table d full kept -->\nold\n<!-- end -->\nc\n"
    made = rendered(text, tmp_path / "results.jsonl")
    spread, removed = "0.3000 (0.2000 to 0.4000)", "full | removed"
    unsure = "**not shown: -0.0100 to +0.0200**"
    assert [line for line in made.splitlines() if not line.startswith(("|---", "| model"))] == [
        "a",
        "<!-- table d -->",
        "| popularity | 0.1000 | 0.1000 | 0.0500 to 0.2000 |  | full | removed | none | 1 s |",
        f"| BERT4Rec | {spread} | {spread} | 0.1500 to 0.6000 | +0.0200 to +0.0400 | {removed} | 2 | 1 s |",
        f"| SASRec | 0.6000 | 0.6000 | 0.3000 to 1.2000 | {unsure} | {removed} | 1 | 1 s |",
        "<!-- end -->",
        "b",
        "<!-- table d full kept -->",
        "| popularity | 0.5000 | 0.5000 | 0.2500 to 1.0000 |  | full | kept | none | 1 s |",
        "<!-- end -->",
        "c",
    ]
    assert rendered(made, tmp_path / "results.jsonl") == made
    with pytest.raises(SystemExit, match="has no row of d, pop-100, seen items removed"):
        rendered("<!-- table d pop-100 -->\n<!-- end -->\n", tmp_path / "results.jsonl")
    with pytest.raises(SystemExit, match="the part `table d` has no `<!-- end -->`"):
        rendered("<!-- table d -->\n| x |\n<!-- reference -->\n", tmp_path / "results.jsonl")


def test_the_export_table_sets_ours_beside_the_fastest_library() -> None:
    rates = {
        "recbole": {"10": [50.0, 70.0, 60.0], "100": [40.0]},
        "rectools": {"10": [30.0], "100": [45.0]},
        "ours": {"10": [180.0], "100": [90.0]},
    }
    older = {"data": "yelp", "users": 7, "rates": {"ours": {"10": [1.0], "100": [1.0]}}}
    lines = export_speed.table([older, {"data": "yelp", "users": 1234, "rates": rates}]).splitlines()
    assert lines[0] == "| data | k | RecTools | RecBole | ours |"
    assert lines[2:] == [
        "| yelp, 1,234 users | 10 | 30 | 60 | 180, **3.0 times the fastest** |",
        "| yelp, 1,234 users | 100 | 45 | 40 | 90, **2.0 times the fastest** |",
    ]
