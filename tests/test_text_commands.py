"""The whole way of a model that reads text, by its commands, on items that leave training."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from recsys import experiment
from recsys.cli import app, main
from recsys.dataset import PreparedData
from recsys.errors import InputError
from tests.text_world import N_ITEMS, song_table, walks


@pytest.fixture
def config(tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of songs, whose log and item table stand beside it."""
    monkeypatch.chdir(tmp_path)
    songs = walks(120, avoid=())
    lines = [f"{row},s{item}" for row in range(len(songs)) for item in songs[row]]
    Path("log.csv").write_text("\n".join(["sequence,item", *lines]))
    columns = {name: column.to_pylist() for name, column in song_table().items()}
    rows = [
        {"item": f"s{at + 1}", **{name: each[at] for name, each in columns.items()}} for at in range(N_ITEMS)
    ]
    Path("items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("songs.yaml").write_text(
        "name: songs\n"
        "data: {path: log.csv, items: items.jsonl, items_format: jsonl, item_columns: {title: title}}\n"
        "split: item_cold\n"
        "model: {name: recformer, dim: 16, inner: 32, layers: 1, max_length: 8, max_tokens: 64, window: 16}\n"
        "training: {epochs: 1, threads: 1, device: cpu, precision: fp32}\n"
        f"tracking: {{uri: '{tracking_uri}', report: false}}\n"
    )
    return Path("songs.yaml")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a training that Ctrl-C ends in its first epoch."""

    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["recsys", *arguments])
            patch.setattr(experiment, "append_epoch", stop)
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130


def test_from_a_log_to_new_items_and_another_catalogue(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = run("prepare", str(config))
    assert "withheld items: removed" in prepared.output
    assert "no leakage" in prepared.output
    interrupted(monkeypatch, "pretrain", str(config))
    assert capsys.readouterr().err.endswith(
        "interrupted; with --resume it goes on from its last finished epoch\n"
    )
    run("pretrain", str(config), "--resume")
    pretrained = "runs/songs/pretrained/bundle"
    with pytest.raises(InputError, match="stands in runs/songs/pretrained, which this training would write"):
        run("train", str(config), f"model.backbone={pretrained}", "output=runs/songs/pretrained")
    backbone = str(shutil.copytree(pretrained, "backbone"))
    run("train", str(config), f"model.backbone={backbone}")
    bundle = "runs/songs/recformer/bundle"
    cold = run("evaluate", bundle, "--candidates", "cold", "--json", "cold.json")
    assert "test, full (cold items alone" in cold.output
    found = json.loads(Path("cold.json").read_text())
    assert found["users"] == found["cold_targets"] > 0
    assert list(found["slices"]["target item"]) == ["cold"]
    for floor in ("text_knn", "category_popularity"):
        settings = ["model.attribute=title"] if floor == "category_popularity" else []
        run("train", str(config), f"model={floor}", *settings)
        metrics = json.loads(Path(f"runs/songs/{floor}/bundle/manifest.json").read_text())["metrics"]
        # Songs of the same band, of which there are eight, share a word of their title.
        assert metrics["test_hr@10"] > 0.9
    run(
        "prepare", str(config), "name=few", "split={kind: low_resource, users: 0.5}", "clean.min_item_count=2"
    )
    few = PreparedData.load("prepared/few")
    idle = few.train_end == 0
    lengths = few.training("training+validation").lengths
    assert 0 < idle.sum() < len(idle) and not lengths[idle].any() and (lengths >= few.train_end)[~idle].all()
    assert lengths.sum() > few.train_end.sum()
    with pytest.raises(InputError, match="may have seen the targets"):
        run("evaluate", backbone, "--data", "prepared/few")
    Path("other.csv").write_text(Path("log.csv").read_text().replace(",s", ",t"))
    Path("other.jsonl").write_text(Path("items.jsonl").read_text().replace(': "s', ': "t'))
    run("prepare", str(config), "name=other", "data.path=other.csv", "data.items=other.jsonl")
    other = run("evaluate", backbone, "--data", "prepared/other", "--json", "other.json")
    assert "note: zero-shot, as on another catalogue: none of its " in other.output
    assert json.loads(Path("other.json").read_text())["zero_shot"].startswith("none of its ")
    Path("new.csv").write_text("id,title,year\nn1,amber nine,1990\n")
    before = json.loads((Path(bundle) / "manifest.json").read_text())
    added = run("add-items", bundle, "new.csv")
    assert "1 new items" in added.output
    after = json.loads((Path(bundle) / "manifest.json").read_text())
    assert after["added"] == [{"from": before["model_version"], "items": 1}]
    assert (Path(bundle) / "index/index.json").is_file()
    answer = run("recommend", bundle, "--history", "n1", "-k", "3", "--json")
    assert json.loads(answer.output)["unknown"] == []
    with pytest.raises(InputError, match=r"new\.txt is no \.parquet, \.csv, \.jsonl file"):
        run("add-items", bundle, "new.txt")
    shutil.rmtree(backbone)
    shutil.copytree("runs/songs/recformer/bundle", backbone)
    for way, message in (("--final", "with another backbone than now stands"), ("--resume", "from another")):
        with pytest.raises(InputError, match=message):
            run("train", str(config), f"model.backbone={backbone}", way)
    shutil.rmtree(backbone)
    shutil.copytree(pretrained, backbone)
    final = run("train", str(config), f"model.backbone={backbone}", "--final")
    assert "trained in" in final.output


def test_candidates_that_do_not_exist_are_refused(config: Path) -> None:
    run("prepare", str(config), "split=leave_one_out", "name=all")
    run("train", str(config), "split=leave_one_out", "name=all", "model=popularity")
    bundle = "runs/all/popularity/bundle"
    with pytest.raises(InputError, match="candidates `lukewarm` are unknown; known: all, warm, cold"):
        run("evaluate", bundle, "--candidates", "lukewarm")
    with pytest.raises(InputError, match="--candidates warm is of the full ranking; pop-100 draws its own"):
        run("evaluate", bundle, "--candidates", "warm", "--protocol", "pop-100")
    with pytest.raises(InputError, match="no target is a cold item"):
        run("evaluate", bundle, "--candidates", "cold")


def test_warm_candidates_are_ranked_as_if_there_were_no_others(config: Path) -> None:
    run("prepare", str(config))
    run("train", str(config), "model=popularity")
    result = CliRunner().invoke(app, ["evaluate", "runs/songs/popularity/bundle", "--candidates", "warm"])
    assert isinstance(result.exception, InputError)  # every target of this split is cold
    run(
        "evaluate",
        "runs/songs/popularity/bundle",
        "--candidates",
        "warm",
        "--split",
        "valid",
        "--json",
        "w.json",
    )
    run("evaluate", "runs/songs/popularity/bundle", "--split", "valid", "--json", "all.json")
    warm, every = (json.loads(Path(name).read_text())["metrics"] for name in ("w.json", "all.json"))
    assert np.allclose([warm[name] for name in every], list(every.values()))  # cold items are at the bottom
