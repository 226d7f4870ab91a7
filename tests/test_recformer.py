"""Recformer in a world in which texts decide what comes next, also of items that nobody has heard."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.add_items import add_items, read_item_file
from recsys.bundle import Bundle, save_bundle
from recsys.config import ExperimentConfig, RecformerConfig, TrainingConfig, build_config
from recsys.dataset import PreparedData
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.evaluation import evaluate, evaluate_bundle
from recsys.index import build_index, read_index_info
from recsys.models.reading import sentences_of
from recsys.models.recformer import Recformer
from recsys.recformer_fit import fit_recformer, make_recformer
from recsys.recformer_training import FineTuning
from recsys.recommender import Recommender
from recsys.steps import Steps
from recsys.trainer import OnEpoch
from recsys.training import Fitted
from tests.text_world import COLD, N_ITEMS, song_table, successor, walks, write_songs
from tests.worlds import counting_bundle

SIZES = {"dim": 32, "inner": 64, "max_length": 8, "max_tokens": 64, "window": 16, "vocabulary": 200}


def experiment(**model: object) -> ExperimentConfig:
    tree = {"name": "songs", "data": {"format": "sample"}, "model": {"name": "recformer", **SIZES, **model}}
    return build_config(tree, where="the test")


def fit(
    data: PreparedData,
    folder: Path,
    epochs: int,
    *,
    resume: bool = False,
    validates: bool = True,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    **model: object,
) -> Fitted:
    config = experiment(dropout=0.0, **model).model
    assert isinstance(config, RecformerConfig)
    return fit_recformer(
        config,
        TrainingConfig(
            epochs=epochs, batch_size=24, learning_rate=3e-3, threads=1, device="cpu", precision="fp32",
            validate_every=5 if epochs > 5 else 1,
        ),
        items=data.items,
        training=data.training(),
        validation=data.targets("valid") if validates else None,
        checkpoints=folder,
        resume=resume,
        on_epoch=on_epoch,
    )  # fmt: skip


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_songs(tmp_path_factory.mktemp("songs") / "data", walks(240))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def fitted(songs: PreparedData, checkpoints: Path) -> Fitted:
    return fit(songs, checkpoints, 20)


@pytest.fixture
def bundle(songs: PreparedData, fitted: Fitted, tmp_path: Path) -> Bundle:
    save_bundle(
        tmp_path / "bundle", config=experiment(), model=fitted.encoder, data=songs, metrics={},
        trained_on="training", best_epoch=fitted.best_epoch,
    )  # fmt: skip
    return Bundle.load(tmp_path / "bundle")


def test_songs_that_nobody_has_heard_are_recommended_by_their_titles(
    songs: PreparedData, fitted: Fitted
) -> None:
    found = evaluate(fitted.encoder, songs, scores_cold=True)
    heard = np.asarray(songs.items["count"]) > 0
    assert not heard[np.array(COLD) - 1].any()
    cold = ~heard[songs.targets("test").items - 1]
    assert found.per_user["hr@5"][~cold].mean() > 0.9
    assert found.per_user["hr@5"][cold].mean() > 0.6  # by chance 5 of 48
    among = evaluate(fitted.encoder, songs, scores_cold=True, candidates="cold")
    assert among.users == cold.sum() == found.cold_targets
    assert among.per_user["hr@5"].mean() > 0.9
    assert (found.per_user["mrr@5"][cold] <= among.per_user["mrr@5"]).all()
    warm = evaluate(fitted.encoder, songs, scores_cold=True, candidates="warm")
    assert warm.users == (~cold).sum()
    assert warm.lines()[0].startswith("test, full (warm items alone, seen items removed)")


def test_both_stages_are_run_and_the_table_is_that_of_the_first(fitted: Fitted, checkpoints: Path) -> None:
    first, second = (
        torch.load(checkpoints / f"stage-{number}" / name, weights_only=True)["state_dict"]
        for number, name in ((1, "best.ckpt"), (2, "last.ckpt"))
    )
    weights = "encoder.encoder.token_embedding.weight"
    assert not torch.equal(first[weights], second[weights])  # stage 2 trained on
    for name in ("item_vectors", "item_encoder.token_embedding.weight"):
        assert torch.equal(first[f"encoder.{name}"], second[f"encoder.{name}"])
        assert torch.equal(first[f"encoder.{name}"], fitted.encoder.state_dict()[name])
    model = copy.deepcopy(fitted.encoder)
    assert isinstance(model, Recformer)
    epochs = model.stage_epochs.tolist()
    assert epochs[0] > 0 and fitted.best_epoch == (20 + epochs[1] if epochs[1] else epochs[0])
    table = model.item_table().clone()
    torch.testing.assert_close(table.norm(dim=1), torch.ones(N_ITEMS))
    model.refresh()
    # Training went on after the items were encoded.
    assert not torch.allclose(model.item_table(), table, atol=1e-6)


def test_a_history_gets_the_same_vector_alone_as_among_others(songs: PreparedData, fitted: Fitted) -> None:
    histories = songs.targets("test").histories.take(np.arange(60))
    model = fitted.encoder
    assert isinstance(model, Recformer)
    together = encode_histories(model, histories)
    for row in range(0, 60, 7):
        assert np.array_equal(encode_histories(model, histories.take([row]))[0], together[row])


def test_an_interrupted_training_goes_on_to_the_same_bits(songs: PreparedData, tmp_path: Path) -> None:
    whole = fit(songs, tmp_path / "whole", 2)
    for stop in (1, 3):  # in either stage

        def interrupt(epoch: int, metrics: dict[str, float], stop: int = stop) -> None:
            if epoch == stop + 1:
                raise KeyboardInterrupt

        folder = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            fit(songs, folder, 2, on_epoch=interrupt)
        resumed = fit(songs, folder, 2, resume=True)
        for name, tensor in whole.encoder.state_dict().items():
            assert torch.equal(resumed.encoder.state_dict()[name], tensor), (stop, name)


def test_pre_training_is_contrastive_and_starts_another(songs: PreparedData, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    made = fit(
        songs, tmp_path / "pre", 10, objective="pretrain", on_epoch=lambda _, found: seen.append(found)
    )
    assert isinstance(made.encoder, Recformer)
    assert made.encoder.stage_epochs.tolist()[1] == 0
    assert seen[-1]["loss"] < 0.7 * seen[0]["loss"]
    assert seen[-1]["ndcg@10"] > 0.3
    save_bundle(
        tmp_path / "bundle", config=experiment(objective="pretrain"), model=made.encoder, data=songs,
        metrics={}, trained_on="training", best_epoch=made.best_epoch,
    )  # fmt: skip
    config = experiment(backbone=str(tmp_path / "bundle")).model
    assert isinstance(config, RecformerConfig)
    begun = make_recformer(config, songs.items)[0].eval()
    begun.refresh()
    torch.testing.assert_close(begun.item_table(), made.encoder.item_table())


def test_pre_training_without_validation_keeps_the_items_too(songs: PreparedData, tmp_path: Path) -> None:
    model = fit(songs, tmp_path, 1, objective="pretrain", validates=False).encoder
    assert isinstance(model, Recformer)
    torch.testing.assert_close(model.item_table().norm(dim=1), torch.ones(N_ITEMS))
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(model.item_encoder.state_dict()[name], tensor), name


def test_what_training_never_meets_is_no_negative(songs: PreparedData) -> None:
    config, training = experiment().model, TrainingConfig(threads=1, device="cpu")
    assert isinstance(config, RecformerConfig)
    model = make_recformer(config, songs.items)[0]
    module = FineTuning(model, Steps(songs.training(), N_ITEMS, config, training), None, training)
    table, bias = module.outputs(None)
    unheard = np.flatnonzero(np.asarray(songs.items["count"]) == 0) + 1
    assert set(COLD) <= set(unheard)
    assert np.flatnonzero(bias.isneginf()).tolist() == [0, *unheard, N_ITEMS + 1]
    rows = torch.tensor([0, 1, COLD[0], N_ITEMS + 1])
    some = module.outputs(rows)
    assert torch.equal(some[0], table[rows]) and torch.equal(some[1], bias[rows])
    assert module.state_dict().keys() == {f"encoder.{name}" for name in model.state_dict()}


def test_a_bundle_gives_the_same_answers(songs: PreparedData, fitted: Fitted, bundle: Bundle) -> None:
    loaded = bundle.model
    assert isinstance(loaded, Recformer)
    assert evaluate_bundle(bundle, songs).metrics == evaluate(fitted.encoder, songs, scores_cold=True).metrics
    (bundle.folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json; the bundle is incomplete"):
        Bundle.load(bundle.folder)


def test_another_catalogue_is_recommended_from_without_training(bundle: Bundle, tmp_path: Path) -> None:
    sequences = walks(80, seed=5)
    same, other = (write_songs(tmp_path / each, sequences, prefix=each) for each in ("s", "other"))
    assert bundle.vocabulary.hash == same.vocabulary.hash != other.vocabulary.hash
    with pytest.raises(InputError, match="was trained on"):
        evaluate_bundle(bundle, same)  # the same songs and other events: its targets may have been seen
    found = evaluate_bundle(bundle, other)
    assert found.metrics == pytest.approx(evaluate(bundle.model, same, scores_cold=True).metrics, abs=1e-3)
    assert "none of its 48 items has the id of an item of the bundle" in found.lines()[-1]


def test_items_are_added_to_a_view_without_a_copy_of_the_encoder(
    songs: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment().model
    assert isinstance(config, RecformerConfig)
    model = make_recformer(config, songs.items)[0].eval()
    model.refresh()

    def refuse(parameter: torch.nn.Parameter, memo: object) -> None:
        raise AssertionError(f"a parameter {tuple(parameter.shape)} is copied")

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    sentences = sentences_of(config, model.tokenizer, pa.table(song_table([1, COLD[0]])))
    view = model.extended(sentences)
    rows = torch.tensor([0, COLD[0] - 1])
    torch.testing.assert_close(view.item_table()[N_ITEMS:], model.item_table()[rows], atol=1e-5, rtol=1e-4)
    assert (view.n_items, model.n_items) == (N_ITEMS + 2, N_ITEMS)
    torch.testing.assert_close(model.with_sentences(sentences).item_table(), view.item_table()[N_ITEMS:])
    known, new = torch.tensor([[2, COLD[0]]]), torch.tensor([[2, N_ITEMS + 2]])
    torch.testing.assert_close(view.encode(new), model.encode(known), atol=1e-4, rtol=1e-4)


def test_new_songs_join_without_training(songs: PreparedData, bundle: Bundle) -> None:
    build_index(bundle, songs.targets("test").histories, k=20)
    old = Recommender.load(bundle.folder, backend="exact")
    before = next(index for index in range(1, N_ITEMS + 1) if successor(index) == COLD[0])
    history = [f"s{before - 1}", f"s{before}"]
    twin = {"sku": pa.array(["n1", "n2"]), "unread": pa.array([1, 2])}
    titles = {**song_table([COLD[0]]), "title": song_table([COLD[0]])["title"]}
    table = pa.table(
        {**twin, **{name: pa.array([column[0].as_py(), None]) for name, column in titles.items()}}
    )
    added = add_items(bundle, table, id_column="sku")
    assert (added.items, len(added.bundle.vocabulary)) == (2, N_ITEMS + 2)
    assert added.bundle.model_version != bundle.model_version
    assert added.notes == ["1 items have no text and share one learned sentence: n2"]
    assert isinstance(added.bundle.model, Recformer) and isinstance(bundle.model, Recformer)
    vectors = item_vectors(added.bundle.model)
    np.testing.assert_allclose(vectors[N_ITEMS], vectors[COLD[0] - 1], atol=1e-5)
    assert np.array_equal(vectors[:N_ITEMS], item_vectors(bundle.model))
    info = read_index_info(added.bundle)
    assert info is not None and info.count == N_ITEMS + 2
    answer = Recommender.load(bundle.folder).recommend(history, 10)
    ids = [item.id for item in answer.items]
    assert abs(ids.index("n1") - ids.index(f"s{COLD[0]}")) == 1
    assert [each for each in ids if each not in ("n1", "n2")] == [
        item.id for item in old.recommend(history, 10).items
    ][: len([each for each in ids if each not in ("n1", "n2")])]
    assert added.bundle.prepared_data(songs.path).digest == songs.digest  # its items are the first
    found = evaluate_bundle(added.bundle, songs)
    assert found.metrics == evaluate(bundle.model, songs, scores_cold=True).metrics
    assert found.zero_shot is None


def test_bad_new_items_are_refused_and_nothing_is_lost(
    songs: PreparedData, bundle: Bundle, tmp_path: Path
) -> None:
    def refused(message: str, **columns: object) -> None:
        with pytest.raises(InputError, match=message):
            add_items(bundle, pa.table(columns))

    refused("have no column `id`, only sku, title", sku=["a"], title=["x"])
    refused(r"none of the columns that the model reads \(title, year\)", id=["a"], name=["x"])
    refused("2 of the new items are in .* already, such as 's1'", id=["s1", "s2"], title=["x", "y"])
    refused("id 'a' stands twice", id=["a", "a"], title=["x", "y"])
    refused("1 ids of the new items are null", id=["a", None], title=["x", "y"])
    refused(
        "column `year` of the new items is of type string.*bundle's is of type int64", id=["a"], year=["x"]
    )
    refused("there is no new item", id=pa.array([], pa.string()), title=pa.array([], pa.string()))
    twice = pa.table([["a"], ["x"], ["y"]], names=["id", "title", "title"])
    with pytest.raises(InputError, match="have two columns `title`; keep one"):
        add_items(bundle, twice)
    named = pa.table({"id": ["a"], "title": ["x"], "name": ["y"]})
    with pytest.raises(
        InputError, match="a column `title` beside `name`, which --title names; leave one out"
    ):
        add_items(bundle, named, title="name")
    with pytest.raises(
        InputError, match="have no column `nmae`, only id, title, name; name the column of their"
    ):
        add_items(bundle, named, title="nmae")
    markov = counting_bundle(tmp_path / "markov", songs, name="markov")
    with pytest.raises(InputError, match=r"model `markov`, which knows items by their events alone"):
        add_items(markov, pa.table({"id": ["a"], "title": ["x"]}))
    assert Bundle.load(bundle.folder).model_version == bundle.model_version


def test_titles_in_a_csv_stay_what_they_are(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("id,name\nn1,007\nn2,NA\nn3,null\n")
    added = add_items(bundle, read_item_file(file, bundle, title="name"), title="name", out=tmp_path / "out")
    assert added.notes == ["the new items have no column year, which the model reads"]
    rows = added.bundle.items.slice(N_ITEMS)
    assert rows["title"].to_pylist() == ["007", "NA", "null"] and rows["year"].null_count == 3
    file.write_text("id,title,year\nn4,amber nine,1990.0\n")  # as tables write whole numbers beside a null
    assert add_items(bundle, read_item_file(file, bundle)).bundle.items["year"][-1].as_py() == 1990


def test_an_attribute_that_the_catalogue_lacks_is_no_part_of_a_training(
    songs: PreparedData, bundle: Bundle
) -> None:
    config = experiment(attributes=["titel", "year"]).model
    assert isinstance(config, RecformerConfig)
    for start in (config, config.model_copy(update={"backbone": str(bundle.folder)})):
        with pytest.raises(
            InputError, match=r"names `titel`, which the item table lacks; it has title, year"
        ):
            make_recformer(start, songs.items)


def test_songs_without_a_title_are_named_and_share_a_vector(tmp_path: Path) -> None:
    data = write_songs(tmp_path / "data", walks(20), without_text=(4, 9))
    config = experiment().model
    assert isinstance(config, RecformerConfig)
    model, notes = make_recformer(config, data.items)
    assert notes == ["2 items have no text and share one learned sentence: s4, s9"]
    model.refresh()
    torch.testing.assert_close(model.item_table()[3], model.item_table()[8])
    with pytest.raises(InputError, match="the item table has no text"):
        make_recformer(config, data.items.select(["index", "id", "count"]))
