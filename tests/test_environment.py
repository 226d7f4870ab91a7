from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.environment import Environment, environment


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("/usr/bin/recsys", "train", "my config.yaml"), "recsys train 'my config.yaml'"),
        (("/somewhere/recsys/cli.py", "train", "a.yaml", "--final"), "recsys train a.yaml --final"),
        (("/lib/pytest/__main__.py", "-q"), "python -m pytest -q"),
        (("jobs/nightly.py", "x"), "python jobs/nightly.py x"),
        (("-c",), "-c"),
        ((), ""),
    ],
)
def test_the_command_is_shown_as_it_is_typed(command: tuple[str, ...], line: str) -> None:
    assert Environment(command=command, python="", platform="", packages={}).shell_line == line


def test_passwords_of_the_command_line_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["recsys", "train", "a.yaml", "tracking.uri=http://me:secret@host:5000"]
    monkeypatch.setattr(sys, "argv", words)
    found = environment()
    assert found.command == (*words[:3], "tracking.uri=http://me:***@host:5000")
    assert "secret" not in found.model_dump_json()


def test_versions_are_those_that_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    found = environment()
    assert found.git_commit is None
    assert found.versions.keys() >= {"python", "recsys", "torch", "polars", "platform"}
    assert found.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "git commit" not in found.versions
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = environment().versions["git commit"]
    assert len(commit) == 40
