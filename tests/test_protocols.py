from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from recsys import protocols
from recsys.errors import InputError
from recsys.evaluation import evaluate, score_function
from recsys.protocols import draw_negatives, sampled_negatives
from recsys.sequences import Ragged
from tests.test_cli import recsys
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring, small_encoder

N_ITEMS = 150


def constant(histories: Ragged) -> NDArray[np.float32]:
    return np.zeros((len(histories), N_ITEMS), np.float32)


def test_negatives_are_never_the_users_own_and_never_twice() -> None:
    weights = np.r_[np.full(100, 1.0), np.full(100, 9.0), 0.0]
    drawn = draw_negatives(weights, Ragged.of([[1, 2, 150]] * 500), np.random.default_rng(0))
    assert drawn.shape == (500, 100)
    assert not np.isin(drawn, [1, 2, 150, 201]).any()
    assert all(len(set(row)) == 100 for row in drawn.tolist())


@pytest.mark.parametrize("quick", [1, 130, 1000])
def test_the_law_is_that_of_draws_without_replacement(quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy's own weighted choice, whatever share of it the quick draws decide."""
    monkeypatch.setattr(protocols, "QUICK_DRAWS", max(quick, 100))
    if quick == 1:  # nothing is decided by the quick draws but one item
        monkeypatch.setattr(protocols, "_first_occurrences", lambda v: np.arange(v.shape[1])[None] == 0)
    weights = np.r_[np.full(60, 1.0), np.full(60, 3.0), np.full(30, 10.0)]
    rng = np.random.default_rng(1)
    drawn = draw_negatives(weights, Ragged.of([[150]] * 4000), rng)
    reference = np.random.default_rng(2)
    shares = weights[:149] / weights[:149].sum()
    known = np.stack([reference.choice(149, 100, replace=False, p=shares) for _ in range(4000)]) + 1
    for low, high in ((0, 60), (60, 120), (120, 150)):
        ours, theirs = (((x > low) & (x <= high)).sum(axis=1).mean() for x in (drawn, known))
        assert ours == pytest.approx(theirs, abs=0.25)  # a count of 100; its standard error is below 0.06


def test_negatives_depend_on_data_and_seed_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 40), 150)
    first = sampled_negatives(data, "test", "pop-100", 5)
    assert (first == sampled_negatives(data, "test", "pop-100", 5)).all()
    assert (first != sampled_negatives(data, "test", "pop-100", 6)).any()
    assert (first != sampled_negatives(data, "test", "uniform-100", 5)).any()


def test_too_few_items_for_the_protocol_are_an_error(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(40, 50), 40)
    with pytest.raises(InputError, match="100 negatives were asked for, but a user has only"):
        evaluate(lambda histories: np.zeros((len(histories), 40), np.float32), data, protocol="pop-100")


def test_two_models_are_ranked_on_the_negatives_of_one_file(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 60), 150)
    counting_bundle(tmp_path / "markov", data, name="markov")
    encoder_bundle(tmp_path / "encoder", data)
    file = tmp_path / "negatives.parquet"
    written = b""
    for name in ("markov", "encoder"):
        done = recsys(
            "evaluate", tmp_path / name, "--protocol", "pop-100", "--negatives", file, "--seed", "3"
        )
        assert done.returncode == 0, done.stderr
        written = written or file.read_bytes()
    assert file.read_bytes() == written
    other = recsys("evaluate", tmp_path / "markov", "--protocol", "pop-100", "--negatives", file)
    assert (other.returncode, "are of seed 3, and 0 was asked for" in other.stderr) == (2, True)


def rewrite(file: Path, table: pa.Table, **columns: object) -> None:
    """The same file with other values in some columns."""
    changed = {name: columns.get(name, table[name]) for name in table.column_names}
    pq.write_table(pa.table(changed).replace_schema_metadata(table.schema.metadata), file)


def test_negatives_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    file = tmp_path / "negatives.parquet"
    evaluate(constant, data, protocol="pop-100", negatives=file)
    table = pq.read_table(file)
    negatives = np.array(table["negatives"].to_pylist())
    doubled, hits, seen = negatives.copy(), negatives.copy(), negatives.copy()
    doubled[7] = doubled[7, 0]
    hits[8, 5] = table["target"][8].as_py()
    seen[9, 99] = data.sequences[9][0]
    for broken, words in (
        (doubled, "the row of 'u7' has an item twice"),
        (hits, "the row of 'u8' has an item of the user's own sequence"),
        (seen, "the row of 'u9' has an item of the user's own sequence"),
    ):
        rewrite(file, table, negatives=broken.tolist())
        with pytest.raises(InputError, match=f"{words}; name another file"):
            evaluate(constant, data, protocol="pop-100", negatives=file)
    for order in (np.roll(np.arange(60), 1), np.r_[1, 0, 2:60]):
        rewrite(file, table.take(order))
        with pytest.raises(InputError, match="are not the users and targets of this data in its order"):
            evaluate(constant, data, protocol="pop-100", negatives=file)
    rewrite(file, table, target=np.roll(table["target"], 1))
    with pytest.raises(InputError, match="are not the users and targets of this data in its order"):
        evaluate(constant, data, protocol="pop-100", negatives=file)
    rewrite(file, table.drop_columns("sequence"))
    with pytest.raises(InputError, match="holds no negatives"):
        evaluate(constant, data, protocol="pop-100", negatives=file)


def test_stored_negatives_are_what_others_rank_too(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 60), N_ITEMS)
    _, model = small_encoder(N_ITEMS)
    file = tmp_path / "negatives.parquet"
    first = evaluate(model, data, protocol="pop-100", negatives=file)
    again = evaluate(score_function(model), data, protocol="pop-100", negatives=file)
    assert again.metrics == pytest.approx(first.metrics, abs=1e-6)
    assert evaluate(model, data, protocol="pop-100").metrics == first.metrics  # the seed alone draws them
    table = pq.read_table(file)
    targets = data.targets("test")
    assert table["sequence"].to_pylist() == [f"u{row}" for row in targets.rows]
    # Another program's ranking of the same file.
    scores = score_function(model)(targets.histories)
    hits = [
        1 + sum(scores[row, np.array(others) - 1] > scores[row, target - 1]) <= 10
        for row, (target, others) in enumerate(
            zip(table["target"].to_pylist(), table["negatives"].to_pylist(), strict=True)
        )
    ]
    assert first.metrics["hr@10"] == pytest.approx(np.mean(hits))
    with pytest.raises(InputError, match="are of protocol pop-100, and uniform-100 was asked for; name"):
        evaluate(model, data, protocol="uniform-100", negatives=file)
    with pytest.raises(InputError, match="are of seed 0, and 1 was asked for"):
        evaluate(model, data, protocol="pop-100", negatives=file, seed=1)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []
    negatives = np.array(table["negatives"].to_pylist())
    for broken in (negatives[:-1], negatives[:, :99], negatives * 0, negatives + N_ITEMS, negatives / 2):
        rewrite(file, table.slice(0, len(broken)), negatives=broken.tolist())
        with pytest.raises(
            InputError, match="are damaged; expected 60 rows of 100 item indices from 1 to 150"
        ):
            evaluate(model, data, protocol="pop-100", negatives=file)
    with pytest.raises(InputError, match=r"cannot write .*: there is no folder .*nowhere; make it"):
        evaluate(model, data, protocol="pop-100", negatives=tmp_path / "nowhere" / "negatives.parquet")
    file.write_text("nothing")
    with pytest.raises(InputError, match="holds no negatives"):
        evaluate(model, data, protocol="pop-100", negatives=file)
