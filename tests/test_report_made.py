"""How model and page were made, as the report tells it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from recsys import schema
from recsys.bundle import save_bundle
from recsys.report import write_report
from tests.test_cli import recsys
from tests.test_report import Page
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring, small_encoder

N_ITEMS = 150


def trained_by(folder: Path, *words: str, torch: str = "2.0.1") -> None:
    """Put the record of a training into a bundle's manifest, as an older machine would have written it."""
    environment = {
        "command": ["/usr/bin/recsys", *words],
        "python": "3.11.0",
        "platform": "Linux-6.1",
        "packages": {"torch": torch},
        "git_commit": "abc123",
    }
    file = folder / schema.MANIFEST_FILE
    manifest = json.loads(file.read_text())
    training = {"environment": environment, "started_at": "2026-03-01T12:30:00Z", "seconds": 1234.56}
    file.write_text(json.dumps({**manifest, "training": training}))


def test_the_training_and_the_page_are_told_apart(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    untold = Page(write_report(bundle.folder, tmp_path / "report.html", baselines=False))
    assert "The bundle has no record of the training" in untold.words
    assert untold.row("torch")[1:] == [version("torch")]

    trained_by(bundle.folder, "train", "my config.yaml", "model=popularity")
    told = Page(write_report(bundle.folder, tmp_path / "report.html", baselines=False))
    assert "The command of the training: recsys train 'my config.yaml' model=popularity" in told.words
    assert "Started 2026-03-01 12:30:00 UTC; 1,234.6 s of training and validation." in told.words
    assert ["what", "training", "this page"] in [list(map(str.strip, row)) for row in told.tables[-1]]
    assert told.row("torch") == ["torch", "2.0.1", version("torch")]
    assert told.row("git commit")[1] == "abc123"
    assert told.row("annoy")[1:] == ["", version("annoy")]


def test_a_final_bundle_tells_both_trainings(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    chosen = encoder_bundle(tmp_path / "bundle", data)
    config, model = small_encoder(N_ITEMS)
    final = save_bundle(
        tmp_path / "final" / "bundle",
        config=config,
        model=model,
        data=data,
        metrics={},
        trained_on="all",
        best_epoch=3,
    )
    trained_by(final, "train", "a.yaml", "--final", torch="2.1")
    page = Page(write_report(final, tmp_path / "report.html", baselines=False))
    assert "The command of the training: recsys train a.yaml --final" in page.words
    assert "no record of the run that chose the epochs" in page.words
    trained_by(chosen.folder, "train", "a.yaml", torch="2.0")
    page = Page(write_report(final, tmp_path / "report.html", baselines=False))
    assert "The command of the run that chose the epochs: recsys train a.yaml Started" in page.words
    assert page.row("torch")[1:] == ["2.1", "2.0", version("torch")]


def test_the_command_writes_the_page_and_names_itself(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    folder = encoder_bundle(tmp_path / "bundle", data).folder
    out = tmp_path / "a b.html"
    done = recsys("report", folder, "--out", out, "--split", "valid", "--no-baselines")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {out}"
    page = Page(out)
    assert f"recsys report {folder} --out '{out}' --split valid --no-baselines" in page.words
    assert "Valid targets, full ranking" in page.words
    assert "mask_prob: 0.4" in page.words
