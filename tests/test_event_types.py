"""Types of events: which can be targets, and what each weighs in the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys
from data_prep.assemble import Tables, assemble
from data_prep.cleaning import positions
from data_prep.leakage import LeakageError, check_leakage
from data_prep.splits import Cuts, global_cuts, split_marks, training_counts
from recsys.config import (
    BERT4RecConfig,
    GlobalTime,
    LeaveOneOut,
    SASRecConfig,
    SplitConfig,
    TrainingConfig,
    UserHoldout,
)
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.losses import full_cross_entropy, gbce, sampled_softmax
from recsys.objectives import cloze, next_item
from recsys.sequences import Ragged
from recsys.steps import Steps
from recsys.training import fit_encoder

ONLY = ("purchase",)
Rows = list[tuple[int, int, int, str]]
KINDS = st.sampled_from(["purchase", "view", "cart"])
LOGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 9), KINDS), min_size=1, max_size=40
)


def tables_of(rows: Rows, split: SplitConfig) -> tuple[Tables, Cuts | None]:
    names = dict.fromkeys(("sequence", "item", "time"), pl.Int64) | {"event": pl.String}
    frame = pl.DataFrame(rows, schema=names, orient="row").with_row_index("row").cast({"row": pl.Int64})
    events = nw.from_native(frame.lazy())
    cuts = global_cuts(events, split)
    placed = positions(events)
    marks = split_marks(events, split, cuts)
    native = [frame.collect().to_native() for frame in (placed, marks, training_counts(placed, marks))]
    return assemble(*native, None, True)[0], cuts  # type: ignore[call-arg]


def marks_of(kinds: str, split: SplitConfig) -> tuple[int, ...]:
    """train_end, valid_start, test_start of one sequence of p(urchases) and v(iews) at times 0, 1, 2, ..."""
    names = {"p": "purchase", "v": "view"}
    rows: Rows = [(0, item, item, names[kind]) for item, kind in enumerate(kinds)]
    # a second sequence, so that there is always something to train on
    tables, _ = tables_of([*rows, (1, 0, -1, "purchase")], split)
    return tuple(int(tables.mark(mark)[0]) for mark in ("train_end", "valid_start", "test_start"))


@pytest.mark.parametrize(
    ("kinds", "marks"),
    [
        ("vpvpvpv", (3, 3, 5)),  # what follows the last purchase is asked of nobody
        ("ppp", (1, 1, 2)),
        ("pvvv", (4, 4, 4)),  # a first event has no history to be told from
        ("vvvp", (3, 3, 3)),
        ("vvv", (3, 3, 3)),
    ],
)
def test_leave_one_out_asks_for_the_last_two_purchases(kinds: str, marks: tuple[int, ...]) -> None:
    assert marks_of(kinds, LeaveOneOut(targets=ONLY)) == marks


@pytest.mark.parametrize(
    ("kinds", "marks"),
    [
        ("ppvpvp", (2, 3, 5)),  # cuts at 2 and 4: the views after each are history, not training
        ("ppvvvv", (2, 6, 6)),
        ("ppvvvp", (2, 5, 5)),
        ("pppvvv", (2, 2, 6)),
    ],
)
def test_global_time_asks_for_the_first_purchase_after_a_cut(kinds: str, marks: tuple[int, ...]) -> None:
    rows: Rows = [(0, i, i, {"p": "purchase", "v": "view"}[kind]) for i, kind in enumerate(kinds)]
    day = 86_400_000_000
    rows = [(sequence, item, time * day, kind) for sequence, item, time, kind in rows]
    tables, cuts = tables_of(rows, GlobalTime(valid_from="1970-01-03", test_from="1970-01-05", targets=ONLY))
    check_leakage(tables, "global_time", cuts, ONLY)
    assert tuple(int(tables.mark(m)[0]) for m in ("train_end", "valid_start", "test_start")) == marks


SPLITS: list[SplitConfig] = [
    LeaveOneOut(targets=ONLY),
    GlobalTime(valid_from=0.4, test_from=0.7, targets=ONLY),
    UserHoldout(valid=0.3, test=0.3, seed=1, targets=ONLY),
]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.kind)
@given(rows=LOGS)
@settings(max_examples=30)
def test_every_target_is_of_the_type_and_no_split_leaks(split: SplitConfig, rows: Rows) -> None:
    try:
        tables, cuts = tables_of(rows, split)
    except InputError as error:
        assert "no event is left for training" in str(error)
        return
    check_leakage(tables, split.kind, cuts, ONLY)
    is_target = tables.of_types(ONLY)
    starts, stops = tables.offsets[:-1], tables.offsets[1:]
    for mark, stop in (("valid_start", starts + tables.mark("test_start")), ("test_start", stops)):
        at = starts + tables.mark(mark)
        assert is_target[at[at < stop]].all()


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.kind)
def test_the_leakage_check_catches_a_target_that_is_none(split: SplitConfig) -> None:
    rows: Rows = [
        (user, time % 5, time * 10 + user, "purchase" if time % 2 else "view")
        for user in range(12)
        for time in range(10)
    ]
    tables, cuts = tables_of(rows, split)
    check_leakage(tables, split.kind, cuts, ONLY)
    asked = np.flatnonzero(tables.mark("test_start") < np.diff(tables.offsets))
    sequences = tables.sequences
    for mark in ("valid_start", "test_start"):
        moved = tables.mark(mark).astype(np.int32)
        moved[asked[0]] = min(moved[asked[0]] + 1, 10)  # onto a view, or beyond the end
        sequences = sequences.set_column(sequences.column_names.index(mark), mark, pa.array(moved))
    broken = Tables(sequences, tables.items, tables.event_types)
    with pytest.raises(LeakageError):
        check_leakage(broken, split.kind, cuts, ONLY)


def shop(n_users: int = 120, seed: int = 0) -> pl.DataFrame:
    """People who buy round a ring of 12 items, and look at 12 others at random in between."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        at, time = int(rng.integers(12)), 0
        for _ in range(int(rng.integers(4, 9))):
            for _ in range(int(rng.integers(0, 3))):
                rows.append((user, int(rng.integers(12, 24)), time, "view"))
                time += 1
            rows.append((user, at, time, "purchase"))
            at, time = (at + 1) % 12, time + 1
    return pl.DataFrame(rows, schema=["sequence", "item", "time", "event"], orient="row")


def prepare(folder: Path, frame: pl.DataFrame | None = None, **arguments: Any) -> PreparedData:  # noqa: ANN401
    given = {"time": "time", "event": "event", "split": {"kind": "leave_one_out", "targets": ["purchase"]}}
    return recsys.prepare(shop() if frame is None else frame, **{**given, **arguments}, out=folder)


def test_types_are_stored_and_read_back(tmp_path: Path) -> None:
    frame = shop(20)
    data = prepare(tmp_path / "shop", frame)
    assert data.event_types == ["purchase", "view"]
    assert data.events is not None
    stored = [data.event_types[code] for code in data.events]
    assert stored == frame.sort("sequence", "time", maintain_order=True)["event"].to_list()
    targets = data.targets("test")
    last = frame.filter(pl.col("event") == "purchase").group_by("sequence", maintain_order=True).last()
    assert data.vocabulary.decode(targets.items) == last["item"].to_list()
    late = data.split_items("test")
    assert late.lengths.tolist() == [1] * len(targets.rows)  # views after the last purchase do not count


def test_data_without_types_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"sequence": ["a", "a", "a", "b", "b"], "item": [3, 1, 2, 1, 3], "time": [1, 2, 3, 1, 2]}
    )
    data = recsys.prepare(frame, time="time", out=tmp_path / "plain")
    assert data.digest == "f2cc23776303ae0959387eb2137fd323eda74809f0fd3cecbfe8281269c14317"
    file = data.path / "manifest.json"
    manifest = json.loads(file.read_text())
    for section, key in (("data", "columns"), ("split", "targets")):  # an older version knew neither
        manifest["settings"][section].pop(key)
    file.write_text(json.dumps(manifest))
    older = PreparedData.load(data.path)
    assert older.events is None
    assert older.target_types is None
    assert older.weighted(None) is older.sequences


def test_the_same_item_seen_and_bought_at_once_is_two_events(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "sequence": ["a"] * 6,
            "item": [1, 1, 1, 2, 2, 3],
            "time": [1, 1, 1, 2, 3, 4],
            "event": ["view", "purchase", "view", "view", "view", "purchase"],
        }
    )
    plain = {"split": "leave_one_out"}
    data = prepare(tmp_path / "kept", frame, **plain)
    assert data.vocabulary.decode(data.sequences.values) == [1, 1, 2, 2, 3]
    data = prepare(tmp_path / "direct", frame, clean={"repeats": "consecutive"}, **plain)
    assert data.vocabulary.decode(data.sequences.values) == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"event": "kind"},
            r"no column `kind` \(data.columns.event\); .*It has: sequence, item, time, event",
        ),
        ({"event": None}, "split.targets needs the types of events; set data.columns.event"),
        (
            {"split": {"kind": "leave_one_out", "targets": ["buy"]}},
            "split.targets names `buy`, but no event left by the cleaning is of that type; there are: "
            "purchase, view",
        ),
        ({"split": {"kind": "leave_one_out", "targets": []}}, "`targets`.* at least 1 item"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "shop", **arguments)


def test_nothing_after_the_cut_is_fitted_with_the_validation_targets(tmp_path: Path) -> None:
    split = {"kind": "global_time", "valid_from": 0.5, "test_from": 0.7, "targets": ["purchase"]}
    data = prepare(tmp_path / "shop", shop(30), split=split)
    times = data.training_times("training+validation")
    assert times is not None
    cut = data.manifest["split"]["test_cut_microseconds"]
    assert len(data.training().values) < len(times) == len(data.training("training+validation").values)
    assert times.max() < cut
    assert data.times is not None
    reached = data.times[data.times < cut]
    assert len(times) <= len(reached)


def test_an_event_without_a_type_is_refused(tmp_path: Path) -> None:
    frame = shop(3).with_columns(pl.when(pl.int_range(pl.len()) != 4).then("event").alias("event"))
    with pytest.raises(InputError, match="row 5 has no event type; give it one, or drop the row"):
        prepare(tmp_path / "shop", frame)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"look": 0.5}, r"event_weights names `look`, but no event of .* there are: purchase, view"),
        ({"view": 0, "purchase": 0}, "gives every type of event the weight 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(tmp_path: Path, weights: dict[str, float], message: str) -> None:
    data = prepare(tmp_path / "shop", shop(5))
    with pytest.raises(InputError, match=message):
        data.weighted(weights)
    with pytest.raises(InputError, match=r"`view` in `training.event_weights` .* greater than or equal to 0"):
        recsys.train(data, training={"event_weights": {"view": -1.0}})
    plain = prepare(tmp_path / "plain", shop(5), event=None, split="leave_one_out")
    with pytest.raises(InputError, match=r"needs the types of events, which .* does not have"):
        plain.weighted({"view": 0.5})


def weighted(rows: list[list[int]], weights: list[list[float]]) -> Ragged:
    plain = Ragged.of(rows)
    return Ragged(plain.values, plain.offsets, np.concatenate(weights).astype(np.float32))


def test_cloze_hides_only_what_weighs_and_ends_there() -> None:
    sequences = weighted([[1, 2, 3, 4, 5], [6, 7, 8]], [[0, 1, 0, 0.5, 0], [1, 1, 1]])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        examples = cloze(sequences, mask_prob=0.9, last_item_prob=0.3, mask=9, rng=rng)
        assert examples.read.lengths.tolist() == [4, 3]  # the last view comes after every target
        first = np.flatnonzero(examples.asked[:4]).tolist()
        assert first in ([1, 3], [3])
        assert examples.weights is not None
        assert examples.weights[:4].tolist() == [0, 1, 0, 0.5]
        assert examples.weight == pytest.approx(examples.weights[examples.asked].sum())


def test_next_item_asks_only_where_the_answer_weighs() -> None:
    sequences = weighted([[1, 2, 3, 4]], [[1, 0, 0.5, 1]])
    examples = next_item(sequences)
    assert examples.asked.tolist() == [False, True, True]
    assert examples.weights is not None
    assert examples.weights.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_weighted_losses_are_those_of_a_plain_reference(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    T, V, D, n = 70, 12, 8, 5
    states = torch.randn(T, D, generator=generator, requires_grad=True)
    items = torch.randn(V + 2, D, generator=generator, requires_grad=True)
    bias = torch.randn(V + 2, generator=generator).requires_grad_()
    targets = torch.randint(1, V + 1, (T,), generator=generator)
    negatives = torch.randint(1, V + 1, (n,), generator=generator)
    weights = torch.rand(T, generator=generator) * (torch.rand(T, generator=generator) > 0.3)
    log_chance = torch.log_softmax(torch.randn(V + 2, generator=generator), 0)

    def loss(rows: torch.Tensor, weights_T: torch.Tensor | None) -> torch.Tensor:
        chosen = (states[rows], items, bias, targets[rows])
        if name == "full":
            return full_cross_entropy(*chosen, weights_T)
        if name == "sampled":
            return sampled_softmax(*chosen, negatives, log_chance, weights_T)
        return gbce(*chosen, negatives, weights_T, n_items=V, calibration=0.5)

    ours = loss(torch.arange(T), weights)
    found = torch.autograd.grad(ours, (states, items, bias))
    if name == "full":
        each = F.cross_entropy(states @ items.T + bias, targets, reduction="none")
    else:  # one place at a time needs no weights
        each = torch.stack([loss(torch.tensor([row]), None) for row in range(T)])
    reference = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    for one, other in zip(found, torch.autograd.grad(reference, (states, items, bias)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [BERT4RecConfig(max_length=6), SASRecConfig(max_length=6)])
def test_shares_of_processes_weigh_what_the_step_weighs(
    tmp_path: Path, model: BERT4RecConfig | SASRecConfig
) -> None:
    data = prepare(tmp_path / "shop")
    training = data.weighted({"view": 0.1}).first(data.train_end)
    steps = Steps(training, 24, model, TrainingConfig(batch_size=25))
    whole = list(steps)
    shares = []
    for rank in (0, 1, 2):
        steps.share = lambda rank=rank: (rank, 3)  # type: ignore[misc]
        shares.append(list(steps))
    for step, *parts in zip(whole, *shares, strict=True):
        assert {part.asked for part in parts} == {step.asked}
        assert sum(part.own for part in parts) == pytest.approx(step.asked)
        assert step.own == pytest.approx(step.asked)
        assert step.weights_T is not None
        assert 0 < step.asked < len(step.targets_T)


def test_sequences_of_which_nothing_weighs_are_left_out() -> None:
    sequences = weighted([[1, 2, 3], [4, 5, 6], [7, 8]], [[0, 0, 0], [1, 0, 0], [0, 1]])
    for model in (BERT4RecConfig(), SASRecConfig()):
        steps = Steps(sequences, 9, model, TrainingConfig())
        assert [steps.windows[row].tolist() for row in range(len(steps.windows))] == [[7, 8]]
    with pytest.raises(InputError, match="no training event that follows another weighs more than 0"):
        Steps(weighted([[1, 2]], [[1, 0]]), 9, BERT4RecConfig(), TrainingConfig())


@pytest.mark.parametrize("name", ["bert4rec", "sasrec"])
def test_purchases_are_learned_through_the_noise_of_views(tmp_path: Path, name: str) -> None:
    data = prepare(tmp_path / "shop", shop(150))
    sizes: dict[str, Any] = {"dim": 16, "layers": 1, "max_length": 16, "dropout": 0.0}
    cloze_model = BERT4RecConfig(last_item_prob=0.8, **sizes)
    model = cloze_model if name == "bert4rec" else SASRecConfig(**sizes)
    config = TrainingConfig(
        epochs=30, batch_size=16, learning_rate=1e-2, patience=99, validate_every=5, threads=1, device="cpu"
    )

    def quality(weights: dict[str, float] | None) -> float:
        fitted = fit_encoder(
            model,
            config,
            training=data.weighted(weights).first(data.train_end),
            n_items=24,
            validation=data.targets("valid"),
            checkpoints=tmp_path / "checkpoints",
        )
        return evaluate(fitted.encoder, data, exclude_seen=False).metrics["ndcg@10"]

    purchases, both = quality({"view": 0}), quality(None)
    assert purchases > 0.7
    assert purchases > both + 0.1
