from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys import schema
from recsys.bundle import Bundle
from recsys.cli import app
from recsys.errors import InputError
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring


def recsys(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "recsys.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("cli")
    return encoder_bundle(folder / "bundle", prepared(folder / "data", ring(150, 200), 150))


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = recsys("prepare", tmp_path / "none.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: there is no configuration {tmp_path / 'none.yaml'};")
    assert done.stderr.count("\n") == 1
    shown = recsys("--debug", "prepare", tmp_path / "none.yaml")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend"], "missing argument 'BUNDLE' (`"),
        (
            ["recommend", "b", "--history", "a", "-k", "0"],
            "invalid value for '-k': ",
        ),
        (["evaluate", "b", "--seed", "-1"], "invalid value for '--seed': "),
        (["train", "--no-such-option"], "no such option: --no-such-option"),
        (["tran"], "no such command 'tran'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = recsys(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {message}")
    assert "--help` shows what there is" in done.stderr


def test_an_interrupted_training_says_how_it_goes_on(tmp_path: Path) -> None:
    prepared(tmp_path / "data", ring(50, 200), 50)
    config = {
        "name": "ring",
        "data": {"path": str(tmp_path / "log"), "format": "sequences"},
        "prepared": str(tmp_path / "data"),
        "output": str(tmp_path / "run"),
        "model": "sasrec",
        "training": {"epochs": 5000},
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    }
    (tmp_path / "ring.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "recsys.cli", "train", str(tmp_path / "ring.yaml")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a suite in the background ignores it
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch 1/5000") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; with --resume it goes on from its last finished epoch"


def test_help_is_no_error() -> None:
    bare, asked = recsys(), recsys("evaluate", "--help")
    assert (bare.returncode, asked.returncode) == (0, 0)
    assert "evaluate" in bare.stdout and "--cutoffs" in asked.stdout


def test_what_is_not_a_bundle_is_named(tmp_path: Path) -> None:
    done = recsys("recommend", tmp_path, "--history", "a")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_recommend_prints_titles_or_json(bundle: Bundle) -> None:
    table = recsys("recommend", bundle.folder, "--history", "i5,i6,nobody", "-k", "3")
    assert table.returncode == 0, table.stderr
    assert "unknown, ignored: nobody" in table.stdout
    assert table.stdout.count("Song ") >= 5  # two of the history, three of the answer
    answer = json.loads(recsys("recommend", bundle.folder, "--history", "i5,i6", "-k", "3", "--json").stdout)
    assert len(answer["items"]) == 3
    assert answer["model_version"] == bundle.model_version
    assert {item["id"] for item in answer["items"]}.isdisjoint({"i5", "i6"})


def test_evaluate_prints_and_writes_what_it_measured(bundle: Bundle, tmp_path: Path) -> None:
    done = recsys("evaluate", bundle.folder, "--protocol", "uniform-100", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "test, uniform-100 (sampled negatives): 200 targets" in done.stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["users"], result["protocol"], result["split"]) == (200, "uniform-100", "test")
    assert f"hr@10 {result['metrics']['hr@10']:.4f}" in done.stdout


def test_evaluate_takes_cutoffs_and_says_what_is_ignored(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    done = recsys(
        "evaluate", bundle.folder, "-k", "3, 1,3", "--protocol", "pop-100", "--keep-seen", "--json", file
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["cutoffs"] == [1, 3]
    assert done.stdout.startswith("note: --keep-seen changes nothing with pop-100, whose negatives are never")
    for wrong, message in (("5,x", "cutoffs are `5,x`; expected whole numbers"), ("0", "numbers from 1 to")):
        done = recsys("evaluate", bundle.folder, "--cutoffs", wrong)
        assert (done.returncode, message in done.stderr) == (2, True)


def test_data_that_is_not_there_can_be_named(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 100), 150)
    bundle = counting_bundle(tmp_path / "bundle", data, name="markov")
    data.path.rename(tmp_path / "copy")
    done = recsys("evaluate", bundle.folder)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {data.path}, the prepared data that {bundle.folder} was trained on, is not there; "
        "run `recsys prepare` to make it, or name a copy with --data\n"
    )
    assert recsys("evaluate", bundle.folder, "--data", tmp_path / "copy").returncode == 0


def test_where_a_result_goes_is_checked_before_the_work(bundle: Bundle, tmp_path: Path) -> None:
    for file, message in ((tmp_path / "no/out.json", "there is no folder"), (tmp_path, "it is a folder")):
        done = recsys("evaluate", bundle.folder, "--json", file)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    done = recsys("floors", bundle.manifest["data"]["path"], "no.such.key=1")
    assert done.returncode == 2
    assert "takes no settings (no.such.key=1)" in done.stderr


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs Linux's /proc and /dev/full")
def test_where_nothing_can_be_written_is_said_before_the_work(bundle: Bundle) -> None:
    impossible = {
        "/proc/x.json": r"no file can be made in /proc (No such file or directory); name another folder",
        "/dev/full": "it is no regular file; name another",
    }
    for name, message in impossible.items():
        for command in (["evaluate", "--json"], ["report", "--out"]):
            done = recsys(*command[:1], bundle.folder, *command[1:], name)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == f"error: cannot write {name}: {message}\n"
    stored: list[str | Path] = [bundle.folder, "--protocol", "pop-100", "--negatives"]
    done = recsys("evaluate", *stored, "/proc/n.parquet")
    assert (done.returncode, done.stdout, "no file can be made in /proc" in done.stderr) == (2, "", True)
    done = recsys("evaluate", *stored, "/proc/version")  # what is there need only be readable
    assert (done.returncode, "/proc/version holds no negatives" in done.stderr) == (2, True)


def test_index_is_built_and_measured(bundle: Bundle) -> None:
    done = recsys("index", bundle.folder, "--recall", "0.95", "--backend", "auto")
    assert done.returncode == 0, done.stderr
    assert "recall@100" in done.stdout
    assert "faster:" in done.stdout
    wrong = recsys("index", bundle.folder, "--backend", "faiss")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: backend `faiss` is unknown; known: annoy, exact, auto\n",
    )


def test_export_takes_the_endpoints_filters_and_says_what_one_should_know(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 100), 150)
    counting_bundle(tmp_path / "bundle", data, name="markov")
    for name, text in (
        ("deny", "item\ni1\ni2\n"),
        ("only", "u1\nu2\n"),
        ("stock", "item,available\ni3,false\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text if name != "only" else f"sequence\n{text}u999\n")
    files: list[str | Path] = [
        "--deny",
        tmp_path / "deny.csv",
        "--only",
        tmp_path / "only.csv",
        "--availability",
        tmp_path / "stock.csv",
    ]
    limits = [
        "--where",
        '{"genres": ["rock"]}',
        "--max-per",
        "year=1",
        "--since",
        "1970-01-02",
        "--keep-seen",
    ]
    done = recsys(
        "export", tmp_path / "bundle", "--out", tmp_path / "recs.jsonl", "-k", "20", *files, *limits
    )
    assert done.returncode == 0, done.stderr
    assert "recs.jsonl: 2 sequences, 20 answers by " in done.stdout
    assert "note: 1 ids are unknown and were left out (u999)" in done.stdout
    assert "note: 2 lists are short, for no further item may come" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "recs.jsonl").read_text().splitlines()]
    numbers = [int(item[1:]) for item in lines[0]["items"]]
    assert {number % 3 for number in numbers} == {0} and 3 not in numbers, "rock, and in stock"
    assert len({number % 10 for number in numbers}) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "{"], "--where is `{`, which is no JSON"),
        (["--where", "[1]"], "--where is `[1]`; expected such as"),
        (["--max-per", "artist"], "--max-per is `artist`; expected ATTRIBUTE=NUMBER, such as artist=2"),
        (["--region", "EU"], "--region EU needs --availability"),
    ],
)
def test_bad_filters_of_an_export_are_one_line(
    bundle: Bundle, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        app(
            ["export", str(bundle.folder), "--out", str(tmp_path / "x.csv"), *arguments],
            standalone_mode=False,
        )


def test_square_brackets_in_a_title_are_printed(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(12, 30), 12)
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    titles = [f"Bad [/x] [remix] {row}" for row in range(12)]
    items = pq.read_table(bundle.folder / "items.parquet")
    column = items.column_names.index("title")
    pq.write_table(items.set_column(column, "title", pa.array(titles)), bundle.folder / "items.parquet")
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    manifest["files"]["items.parquet"] = schema.file_hash(bundle.folder / "items.parquet")
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
    done = recsys("recommend", bundle.folder, "--history", "i1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Bad [/x] [remix]") == 11


def test_the_champion_moves_and_moves_back(tmp_path: Path, tracking_uri: str) -> None:
    data = prepared(tmp_path / "data", ring(30, 60), 30)
    for name in ("popularity", "markov"):
        counting_bundle(tmp_path / name, data, name=name)
        done = recsys("promote", tmp_path / name, "--model", "world", "--tracking-uri", tracking_uri)
        assert done.returncode == 0, done.stderr
    assert "replaces champion 1" in done.stdout
    back = recsys("rollback", "world", "--tracking-uri", tracking_uri)
    assert "version 1 of world is champion again" in back.stdout
    none = recsys("rollback", "nothing", "--tracking-uri", tracking_uri)
    assert none.returncode == 2
    assert none.stderr.count("\n") == 1


def test_a_cold_answer_starts_without_the_training_side(bundle: Bundle) -> None:
    script = (
        "import sys; from recsys.cli import main; "
        f"sys.argv = ['recsys', 'recommend', {str(bundle.folder)!r}, '--history', 'i1']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('heavy:', *({'mlflow', 'pytorch_lightning', 'polars', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
