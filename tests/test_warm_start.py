"""A training that starts from an earlier bundle: what is taken over, what is new, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch

import recsys
from recsys.bundle import Bundle, save_bundle
from recsys.config import BERT4RecConfig, ExperimentConfig, TrainingConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.experiment import train
from recsys.models import build_encoder
from recsys.models.protocol import Model
from recsys.models.transformer import Transformer
from recsys.training import Fitted, fit_encoder
from recsys.warm_start import WarmStart
from tests.worlds import PUBLISHED, counting_bundle, prepared, ring

MODEL: dict[str, Any] = {
    "name": "bert4rec",
    "dim": 16,
    "layers": 1,
    "max_length": 12,
    "dropout": 0.0,
    **PUBLISHED,
}
KNOWN, ALL = 24, 30


def log(n_items: int, n_sequences: int, *, strings: bool = True) -> pl.DataFrame:
    """Events of people who walk round a ring of items, the higher ones more often begun with."""
    walks = ring(n_items, n_sequences, seed=n_items)
    rows = [
        (f"u{row}", f"i{item}" if strings else item, time)
        for row in range(n_sequences)
        for time, item in enumerate(walks[row].tolist())
    ]
    return pl.DataFrame(rows, schema=["sequence", "item", "time"], orient="row")


def prepare(folder: Path, n_items: int, n_sequences: int = 100, **settings: Any) -> PreparedData:  # noqa: ANN401
    strings = settings.pop("strings", True)
    return recsys.prepare(log(n_items, n_sequences, strings=strings), time="time", out=folder, **settings)


def configuration(data: PreparedData, **sections: Any) -> ExperimentConfig:  # noqa: ANN401
    tree = {
        "data": {},
        **data.manifest["settings"],
        "name": "ring",
        "prepared": str(data.path),
        "model": MODEL,
    }
    return build_config({**tree, **sections}, where="the test")


def fit(data: PreparedData, folder: Path, epochs: int, start: WarmStart | None = None) -> Fitted:
    config = TrainingConfig(
        epochs=epochs, batch_size=16, learning_rate=3e-3, threads=1, device="cpu", patience=99
    )
    training = data.training()
    return fit_encoder(
        BERT4RecConfig(**MODEL),
        config,
        training=training,
        n_items=len(data.vocabulary),
        validation=data.targets("valid"),
        checkpoints=folder,
        start=(lambda model, _: start.encoder(model, data, training)) if start else build_encoder,
    )


def bundle_of(folder: Path, data: PreparedData, encoder: Model, **facts: Any) -> Bundle:  # noqa: ANN401
    stated = {"metrics": {}, "trained_on": "training", "best_epoch": 1, **facts}
    save_bundle(folder, config=configuration(data), model=encoder, data=data, **stated)
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that knows the first items of the ring, well trained."""
    folder = tmp_path_factory.mktemp("yesterday")
    data = prepare(folder / "data", KNOWN)
    return bundle_of(folder / "bundle", data, fit(data, folder / "checkpoints", 40).encoder)


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The grown log; its vocabulary has new items, and the known ones in another order."""
    return prepare(tmp_path_factory.mktemp("today") / "data", ALL)


def vectors(model: object, indices: np.ndarray) -> torch.Tensor:
    assert isinstance(model, Transformer)
    return model.item_table().detach()[indices - 1]


def test_known_items_keep_vectors_and_biases_by_their_id(yesterday: Bundle, today: PreparedData) -> None:
    start = WarmStart.checked(yesterday, "yesterday", configuration(today), today)
    encoder = start.encoder(BERT4RecConfig(**MODEL), today, today.training())
    ids = [f"i{item}" for item in range(1, KNOWN + 1)]
    now, then = today.vocabulary.encode(ids), yesterday.vocabulary.encode(ids)
    assert (now != then).any(), "the order of the vocabulary must differ to show anything"
    assert torch.equal(vectors(encoder, now), vectors(yesterday.model, then))
    assert isinstance(yesterday.model, Transformer)
    former, state = yesterday.model.state_dict(), encoder.state_dict()
    for name, weights in former.items():
        if name not in ("item_embedding.weight", "item_bias"):
            assert torch.equal(state[name], weights), name
    for row in (0, -1):  # PAD and MASK
        assert torch.equal(state["item_embedding.weight"][row], former["item_embedding.weight"][row])


def test_a_new_item_starts_where_its_neighbours_stand(yesterday: Bundle, today: PreparedData) -> None:
    start = WarmStart.checked(yesterday, "yesterday", configuration(today), today)
    encoder = start.encoder(BERT4RecConfig(**MODEL), today, today.training())
    assert (start.known(today) >= 0).sum() == KNOWN
    after_the_last = vectors(encoder, today.vocabulary.encode([f"i{KNOWN + 1}"]))
    its_neighbour = vectors(encoder, today.vocabulary.encode([f"i{KNOWN}"]))
    # the fresh draw has a deviation of 0.02 a dimension
    assert (after_the_last - its_neighbour).abs().max() < 0.05
    amidst = vectors(encoder, today.vocabulary.encode([f"i{KNOWN + 3}"]))  # next to new items only
    known = vectors(encoder, today.vocabulary.encode([f"i{item}" for item in range(1, KNOWN + 1)]))
    assert (amidst - known.mean(0)).abs().max() < 0.05


def test_items_without_a_training_event_are_not_known(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(5, 3), 8)  # items 6 to 8 occur nowhere
    bundle = bundle_of_plain(tmp_path / "bundle", data)
    start = WarmStart(bundle, "bundle")
    assert start.known(data).tolist() == [*np.flatnonzero(data.items["count"].to_numpy() > 0), -1, -1, -1]


def bundle_of_plain(folder: Path, data: PreparedData) -> Bundle:
    config = build_config({"name": "world", "data": {"format": "sample"}, "model": MODEL}, where="the test")
    encoder = build_encoder(config.model, len(data.vocabulary))
    save_bundle(
        folder, config=config, model=encoder, data=data, metrics={}, trained_on="training", best_epoch=1
    )
    return Bundle.load(folder)


def test_a_grown_log_is_learned_in_fewer_epochs(
    yesterday: Bundle, today: PreparedData, tmp_path: Path
) -> None:
    def quality(fitted: Fitted) -> float:
        return evaluate(fitted.encoder, today).metrics["ndcg@10"]

    start = WarmStart.checked(yesterday, "yesterday", configuration(today), today)
    full = quality(fit(today, tmp_path / "full", 40))
    warm = quality(fit(today, tmp_path / "warm", 10, start))
    short = quality(fit(today, tmp_path / "short", 10))
    assert warm > 0.95 * full > 0.6
    assert short < 0.8 * full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {**MODEL, "dim": 32}}, r"do not fit this configuration \(model.dim was 16, is 32\)"),
        ({"model": {**MODEL, "layers": 2}}, r"model.layers was 1, is 2"),
        ({"model": {**MODEL, "max_length": 20}}, r"model.max_length was 12, is 20"),
        ({"model": {"name": "sasrec", "dim": 16, "layers": 1}}, r"model.name was 'bert4rec', is 'sasrec'"),
        ({"model": "markov"}, r"`markov` of the configuration counts and has no weights to start from"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    yesterday: Bundle, today: PreparedData, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        WarmStart.checked(yesterday, "yesterday", configuration(today, **change), today)


def test_a_bundle_fitted_to_the_validation_targets_is_refused(
    yesterday: Bundle, today: PreparedData, tmp_path: Path
) -> None:
    encoder = cast(Transformer, yesterday.model)
    data = PreparedData.load(yesterday.manifest["data"]["path"])
    told = bundle_of(tmp_path / "told", data, encoder, trained_on="training+validation")
    with pytest.raises(InputError, match=r"fitted to the validation targets too \(training.fit\)"):
        WarmStart.checked(told, "told", configuration(today), today)


def test_a_bundle_of_a_later_log_is_refused(tmp_path: Path, yesterday: Bundle) -> None:
    whole = log(KNOWN, 100)
    last = pl.col("time") < pl.col("time").max().over("sequence") - 2
    shorter = recsys.prepare(whole.filter(last & (pl.col("time") < 15)), time="time", out=tmp_path / "short")
    with pytest.raises(InputError, match="fitted to events later than all training events of"):
        WarmStart.checked(yesterday, "yesterday", configuration(shorter), shorter)


def test_dropout_and_masking_may_differ(yesterday: Bundle, today: PreparedData) -> None:
    model = {**MODEL, "dropout": 0.4, "mask_prob": 0.5}
    WarmStart.checked(yesterday, "yesterday", configuration(today, model=model), today)


def test_ids_of_another_type_and_strangers_are_refused(yesterday: Bundle, tmp_path: Path) -> None:
    numbers = prepare(tmp_path / "numbers", ALL, 20, strings=False)
    with pytest.raises(InputError, match=r"ids of yesterday are strings, those of .* are integers"):
        WarmStart.checked(yesterday, "yesterday", configuration(numbers), numbers)
    frame = log(ALL, 20).with_columns(("new-" + pl.col("item")).alias("item"))
    strangers = recsys.prepare(frame, time="time", out=tmp_path / "strangers")
    with pytest.raises(InputError, match="knows none of the 30 items"):
        WarmStart.checked(yesterday, "yesterday", configuration(strangers), strangers)


def test_a_counting_bundle_is_refused(today: PreparedData, tmp_path: Path) -> None:
    counting = counting_bundle(tmp_path / "bundle", today, name="popularity")
    with pytest.raises(InputError, match="`popularity` of the bundle counts"):
        WarmStart.checked(counting, "the bundle", configuration(today), today)


def test_a_bundle_that_may_have_seen_the_targets_is_refused(tmp_path: Path) -> None:
    early = {"kind": "global_time", "valid_from": 0.4, "test_from": 0.5}
    late = {"kind": "global_time", "valid_from": 0.7, "test_from": 0.9}
    first = prepare(tmp_path / "early", KNOWN, 40, split=early)
    second = prepare(tmp_path / "late", KNOWN, 40, split=late)
    kept_out = prepare(tmp_path / "leave one out", KNOWN, 40)
    encoder = build_encoder(BERT4RecConfig(**MODEL), KNOWN)
    ahead = bundle_of(tmp_path / "ahead", second, encoder)
    WarmStart.checked(bundle_of(tmp_path / "behind", first, encoder), "behind", configuration(second), second)
    with pytest.raises(InputError, match="ahead was fitted to events after the validation cut"):
        WarmStart.checked(ahead, "ahead", configuration(first), first)
    with pytest.raises(InputError, match=r"under another split \(.*split.kind was 'global_time'"):
        WarmStart.checked(ahead, "ahead", configuration(kept_out), kept_out)
    final = bundle_of(tmp_path / "final", first, encoder, trained_on="all")
    with pytest.raises(InputError, match=r"final was fitted to all events \(--final\)"):
        WarmStart.checked(final, "final", configuration(second), second)


def test_a_run_remembers_what_it_started_from(
    yesterday: Bundle, today: PreparedData, tmp_path: Path, tracking_uri: str
) -> None:
    training = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu"}
    tracking = {"uri": tracking_uri, "report": False}
    out = str(tmp_path / "run")
    config = configuration(today, training=training, tracking=tracking, output=out)
    said: list[str] = []
    done = train(config, from_bundle=yesterday.folder, say=said.append)
    expected = {
        "bundle": str(yesterday.folder),
        "model_version": yesterday.model_version,
        "weights": yesterday.manifest["files"]["weights.safetensors"],
    }
    assert json.loads((done.bundle / "manifest.json").read_text())["started_from"] == expected
    assert any("24 of 30 items are known" in line for line in said)
    with pytest.raises(InputError, match="on other data, or from another bundle"):
        train(config, resume=True)
    again = train(config, resume=True, from_bundle=yesterday.folder)
    assert again.model_version == done.model_version
    with pytest.raises(
        InputError, match=rf"was started from {yesterday.model_version}, not from fresh weights"
    ):
        train(config, final=True)
    final = train(config, final=True, from_bundle=yesterday.folder)
    assert Bundle.load(final.bundle).manifest["started_from"] == expected
    # also by the run's address, from Python
    model = recsys.train(
        today,
        MODEL,
        training=training,
        tracking=tracking,
        out=out,
        from_bundle=f"runs:/{done.run_id}/bundle",
    )
    assert model.bundle.manifest["started_from"]["model_version"] == done.model_version
