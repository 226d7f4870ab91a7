"""What the README says is what happens: its commands are run, its generated parts are up to date."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from data_prep.sample import read_oracle, write_sample
from recsys.bundle import Bundle
from tests.benchmarks.readme import rendered

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(mark: str) -> list[str]:
    """The fenced blocks that follow `<!-- mark -->`."""
    found = re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found
    return found


def commands(mark: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(mark) for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the root of a clone to the commands."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def recsys(arguments: list[str], cwd: Path) -> str:
    command = [sys.executable, "-m", "recsys.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_generated_parts_are_up_to_date() -> None:
    assert rendered(README) == README, "run `python -m tests.benchmarks.readme`"


def test_the_quickstart_keeps_its_promise(tmp_path: Path) -> None:
    assert "recsys quickstart" in README
    output = recsys(["quickstart"], tmp_path)
    out = tmp_path / "quickstart"
    bundle = Bundle.load(out / "run/bundle")
    oracle = read_oracle(out / "sample")
    reached = bundle.manifest["metrics"]["test_hr@10"]
    assert reached >= 0.85 * oracle.hr_at_10
    assert f"{reached:.4f}" in output
    assert f"{oracle.hr_at_10:.4f}" in output
    assert pq.read_metadata(out / "recommendations.parquet").num_rows > 1000
    assert (out / "mlflow.db").is_file()


def test_the_tour_runs(clone: Path) -> None:
    for program, *arguments in commands("run"):
        assert program == "recsys"
        short = ["training.epochs=1"] if arguments[0] == "train" and "model=markov" not in arguments else []
        output = recsys([*arguments, *short], clone)
        if arguments[0] == "recommend":
            assert "rank" in output
            assert "unknown, ignored" not in output
            assert "no known item" not in output
    assert pq.read_metadata(clone / "recommendations.parquet").num_rows > 1000
    assert json.loads((clone / "pop-100.json").read_text())["protocol"] == "pop-100"


def test_the_endpoint_answers_the_requests_shown(clone: Path) -> None:
    serve, *requests = commands("serve")
    place = serve.index("--port") + 1
    bundle = clone / serve[2]
    assert bundle.is_dir(), "the tour, which trains it, comes first"
    serve[place] = "0"
    command = [sys.executable, "-m", "recsys.cli", *serve[1:]]
    process = subprocess.Popen(
        command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert found
        for _, *arguments in requests:
            answer = _curl(arguments, found[0])
            assert answer.status_code == 200, answer.text
            assert answer.text
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout:
            process.stdout.close()
    assert process.returncode == 0


def _curl(arguments: list[str], address: str) -> httpx.Response:
    """The request that a `curl` of the README would make, once the server is up."""
    url = next(each for each in arguments if each.startswith("localhost:8000"))
    url = address + url.removeprefix("localhost:8000")
    body = arguments[arguments.index("-d") + 1] if "-d" in arguments else None
    deadline = time.monotonic() + 30
    while True:
        try:
            if body is None:
                return httpx.get(url)
            return httpx.post(url, content=body, headers={"content-type": "application/json"})
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_python_example_runs(tmp_path: Path) -> None:
    write_sample(tmp_path / "quickstart/sample", users=300, playlists=50)
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "ScoredItem" in done.stdout
