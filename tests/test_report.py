from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import schema
from recsys.bundle import Bundle, save_bundle
from recsys.compare import compare
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate, evaluate_bundle
from recsys.index import build_index
from recsys.models import fit_counting
from recsys.report import write_report
from recsys.report.charts import nice_ticks
from recsys.report.examples import example_users
from recsys.sequences import Ragged
from tests.worlds import counting_bundle, encoder_bundle, experiment, prepared, ring, small_encoder

N_ITEMS = 150
HISTORY = [{"epoch": 1, "loss": 5.1}, {"epoch": 2, "loss": 4.2, "ndcg@10": 0.12, "hr@10": 0.3}]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page taken apart; a tag that closes another than the innermost open one is an error."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.text += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += f" {data}"

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]

    def row(self, start: str) -> list[str]:
        """Cells of the first row whose first cell starts so."""
        rows = [row for table in self.tables for row in table]
        cells = [[" ".join(cell.split()) for cell in row] for row in rows]
        return next(row for row in cells if row[0].startswith(start))


def shown(interval: dict[str, float | None], signs: str = "") -> str:
    """An interval as a cell shows it."""
    mean, low, high = (
        f"{math.nan if interval[key] is None else interval[key]:{signs}.4f}".replace("-", "\N{MINUS SIGN}")
        for key in ("mean", "low", "high")
    )
    return f"{mean} {low} to {high}"


def with_titles(data: PreparedData, titles: list[str]) -> PreparedData:
    """The same data set with other titles."""
    file = data.path / schema.ITEMS_FILE
    items = pq.read_table(file)
    place = items.column_names.index("title")
    pq.write_table(items.set_column(place, "title", pa.array(titles)), file)
    return PreparedData.load(data.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a bundle of an encoder, its index and its history."""
    run = tmp_path_factory.mktemp("report")
    data = prepared(run / "data", ring(N_ITEMS, 200), N_ITEMS)
    with_titles(data, [f"<script>alert({index})</script> & Söhne" for index in range(N_ITEMS)])
    bundle = encoder_bundle(run / "bundle", PreparedData.load(run / "data"))
    build_index(bundle, data.targets("test").histories, k=20)
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    return run


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder / "bundle", folder / "pages" / "report.html"))


def test_the_page_is_complete_in_itself(page: Page, folder: Path) -> None:
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.tags)
    assert page.values("src") == []
    targets = page.values("href")
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(page.values("id"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert policy in page.values("content")
    assert not [value for value in page.values("style") if value]
    text = (folder / "pages" / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert not list((folder / "pages").glob(".*"))


def test_the_page_can_be_read_by_everybody(page: Page) -> None:
    assert page.values("lang") == ["en"]
    assert page.tags.count("caption") == page.tags.count("table") > 8
    assert page.tags.count("th") == len(page.values("scope"))
    plots = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "role")]
    assert (
        len(plots) == 3
    )  # loss and two validation metrics; bars are hidden, their numbers stand beside them
    assert "training loss: 2 epochs, last 4.2 at epoch 2" in page.values("aria-label")


def test_titles_are_text(page: Page) -> None:
    assert "<script>alert(" in page.words
    assert "</script> & Söhne" in page.words


def test_the_numbers_are_those_of_the_evaluation(page: Page, folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    data = bundle.prepared_data()
    expected = evaluate(bundle.model, data).to_json()
    metrics = expected["rows"]["all"]["metrics"]
    for start, name in {
        "HR share": "hr",
        "NDCG 1": "ndcg",
        "MRR": "mrr",
        "Recall": "recall",
        "MAP": "map",
    }.items():
        assert page.row(start)[1:] == [shown(metrics[f"{name}@{k}"]) for k in (5, 10, 20)]
    assert page.row("Coverage")[2] == f"{expected['beyond']['coverage@10']:.4g}"
    for name, part in expected["slices"]["history length"].items():
        cells = page.row(name)
        assert cells[1] == f"{part['users']:,}"
        assert (cells[2], cells[4]) == tuple(shown(part["metrics"][key]) for key in ("hr@10", "ndcg@10"))
    hit = metrics["hr@10"]
    assert f"For {hit['mean']:.1%} of 200 users the next item" in page.words
    assert f"(95% interval {hit['low']:.1%} to {hit['high']:.1%})" in page.words


def test_baselines_stand_beside_the_model(page: Page, folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    data = bundle.prepared_data()
    training, times = data.training(), data.training_times()
    markov = evaluate(fit_counting(experiment(name="markov").model, training, times, N_ITEMS), data)
    difference = compare(markov, evaluate(bundle.model, data)).differences
    row = page.row("Markov chain, order 1")
    assert row[0] == "Markov chain, order 1 the baseline is better"
    assert row[1:3] == [shown(markov.intervals[key].to_json()) for key in ("hr@10", "ndcg@10")]
    assert row[4:] == [shown(difference[key].to_json(), "+") for key in ("hr@10", "ndcg@10")]
    assert "The model ranks worse" in page.words
    names = [row[0] for row in page.tables[0]]
    # A head, the model, eight that count and two that read the item table; replay has nothing to replay.
    assert len(names) == 12
    assert not any("replay" in name for name in names)


def test_examples_are_hits_and_misses_with_the_target_marked(folder: Path) -> None:
    bundle = Bundle.load(folder / "bundle")
    data = bundle.prepared_data()
    gains = evaluate(bundle.model, data).per_user["hr@10"]
    users = example_users(bundle, data, gains, split="test", exclude_seen=True)
    assert [user.hit for user in users] == [True] * 5 + [False] * 5
    assert users == example_users(bundle, data, gains, split="test", exclude_seen=True)
    assert users != example_users(bundle, data, gains, split="test", exclude_seen=True, seed=1)
    for user in users:
        row = data.ids.to_pylist().index(user.user)
        *history, target = data.sequences[row].tolist()
        assert user.events == len(history)
        assert [item.id for item in user.history] == [f"i{index}" for index in history[-5:]]
        assert user.target.id == f"i{target}"
        marked = [place for place, item in enumerate(user.items, start=1) if item.is_target]
        assert marked == ([user.rank] if user.hit else [])
        assert {item.id for item in user.items}.isdisjoint({f"i{index}" for index in history})


def test_a_perfect_model_has_ten_hits(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 600), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="markov")
    gains = evaluate(bundle.model, data).per_user["hr@10"]
    users = example_users(bundle, data, gains, split="test", exclude_seen=True)
    assert [user.rank for user in users] == [1] * 10


def test_a_counting_model_needs_neither_curves_nor_index(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 100), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="markov")
    page = Page(write_report(bundle.folder, tmp_path / "report.html"))
    assert "counts and needs no index" in page.words
    assert "training" not in page.values("id")
    assert not [row for row in page.tables[0] if row[0].strip().startswith("Markov chain, order 1")]
    assert page.row("Markov chain, order 2")
    assert "The prepared data records no leakage check" in page.words


def test_what_preparation_checked_is_told(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    file = data.path / schema.MANIFEST_FILE
    told = {"leakage_check": ["no event knows <the future>"], "counts": {"test_targets": 12345}}
    file.write_text(json.dumps({**data.manifest, **told, "notices": ["look & see"]}))
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    page = Page(write_report(bundle.folder, tmp_path / "report.html", baselines=False))
    assert "no event knows <the future>" in page.words
    assert "look & see" in page.words
    assert page.row("test targets")[1] == "12,345"
    assert "baselines" not in page.values("id")


def test_a_final_bundle_shows_the_run_that_chose_its_epochs(folder: Path, page: Page) -> None:
    data = Bundle.load(folder / "bundle").prepared_data()
    config, model = small_encoder(N_ITEMS, seed=1)
    metrics = {"test_hr@10": 0.25}
    final = save_bundle(
        folder / "final" / "bundle",
        config=config,
        model=model,
        data=data,
        metrics=metrics,
        trained_on="all",
        best_epoch=3,
    )
    shown_there = Page(write_report(final, folder / "final.html"))
    model_version = Bundle.load(folder / "bundle").model_version
    assert f"of the run that chose its 3 epochs, model version {model_version}" in shown_there.words
    assert shown_there.row("HR share") == page.row("HR share")
    assert "final" in shown_there.words.split(" report")[0]

    alone = final.rename(folder / "alone")
    left = Page(write_report(alone, folder / "alone.html"))
    assert "that run itself is not at hand" in left.words
    assert left.row("test hr@10")[1] == "0.2500"
    assert {"baselines", "examples", "slices"}.isdisjoint(left.values("id"))


def test_a_bundle_that_answers_with_seen_items_is_not_asked_for_others(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(12, 80), 12)
    bundle = counting_bundle(tmp_path / "bundle", data, name="replay")
    out = tmp_path / "report.html"
    with pytest.raises(InputError, match="leaves it nothing to say; keep seen items") as of_report:
        write_report(bundle.folder, out)
    with pytest.raises(InputError) as of_evaluation:
        evaluate_bundle(bundle, data)
    assert str(of_report.value) == str(of_evaluation.value)
    assert not out.exists()
    page = Page(write_report(bundle.folder, out, exclude_seen=False, baselines=False))
    assert "items of the history kept in the ranking" in page.words


def test_replay_needs_repeats_and_a_ranking_that_keeps_them(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(12, 80), 12)
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    kept = Page(write_report(bundle.folder, tmp_path / "kept.html", exclude_seen=False))
    assert kept.row("history replay")
    assert "and may be recommended again" in kept.words
    removed = Page(write_report(bundle.folder, tmp_path / "removed.html"))
    assert not [row for row in removed.tables[0] if "replay" in row[0]]
    assert "which makes it a miss" in removed.words
    assert "seen before, so taken out of the ranking" in removed.words


def test_cold_targets_have_a_table_without_them(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 140]] * 4 + [[1, 2, 3, 4, 1]] * 6), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    page = Page(write_report(bundle.folder, tmp_path / "report.html", exclude_seen=False, baselines=False))
    assert "4 of 10 targets never occur in training; they stay in the first table as misses" in page.words
    assert "Only targets that occur in training: 6 users" in page.words
    rows = [row for table in page.tables for row in table if row[0].split()[:1] == ["HR"]]
    assert [row[2].split()[0] for row in rows] == ["0.6000", "1.0000"]


def test_errors_say_what_is_missing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(InputError, match="split `train` is unknown; known: valid, test"):
        write_report(folder / "bundle", out, split="train")
    with pytest.raises(InputError, match="run `recsys prepare` to make"):
        write_report(folder / "bundle", out, data=tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no manifest\.json; expected a bundle"):
        write_report(tmp_path, out)
    prepared(tmp_path / "other", ring(N_ITEMS, 30), N_ITEMS)
    with pytest.raises(InputError, match="may have seen the targets; measure it on the data"):
        write_report(folder / "bundle", out, data=tmp_path / "other")
    assert not out.exists()


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_what_they_are_for(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert ticks[0] <= low + 1e-9 * max(abs(low), 1)
    assert ticks[-1] >= low + span - 1e-9 * max(abs(low + span), 1)
    assert 2 <= len(ticks) <= 7
    assert np.all(np.diff(ticks) > 0)
    assert all(math.isfinite(tick) for tick in ticks)


def test_too_few_users_have_figures_without_intervals(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 20), N_ITEMS)
    counting_bundle(tmp_path / "bundle", data, name="markov")
    page = Page(write_report(tmp_path / "bundle", tmp_path / "report.html"))
    assert "nan" not in page.words.lower()
    assert "nan" not in " ".join(value for _, _, value in page.attributes)
    assert "20" in page.words
