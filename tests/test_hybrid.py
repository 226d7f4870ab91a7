"""Transformers over items' texts, in a world in which texts decide what comes next."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from fastapi.testclient import TestClient

from recsys.add_items import add_items
from recsys.answers import Question, Recommendations
from recsys.bundle import Bundle, save_bundle
from recsys.config import BERT4RecConfig, ExperimentConfig, SASRecConfig, TrainingConfig, build_config
from recsys.counting import CountingIndex
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate, evaluate_bundle
from recsys.fresh import fresh_encoder
from recsys.index import build_index
from recsys.item_texts import ItemText, described
from recsys.models import build_encoder
from recsys.models.protocol import CountingModel
from recsys.models.transformer import Transformer
from recsys.recformer_fit import make_recformer
from recsys.recommender import Recommender
from recsys.schema import file_hash
from recsys.training import fit_encoder
from recsys.warm_start import WarmStart
from serving.app import create_app
from tests.test_recformer import experiment as recformer
from tests.text_world import COLD, N_ITEMS, song_table, successor, walks, write_songs
from tests.worlds import counting_bundle

SIZES = {"dim": 32, "layers": 1, "max_length": 8, "dropout": 0.1, "vocabulary": 200}


def experiment(**model: object) -> ExperimentConfig:
    section = {"name": "sasrec", "item_encoder": "id+text", **SIZES, **model}
    return build_config({"name": "songs", "data": {"format": "sample"}, "model": section}, where="the test")


def model_of(**model: object) -> BERT4RecConfig | SASRecConfig:
    config = experiment(**model).model
    assert isinstance(config, BERT4RecConfig | SASRecConfig)
    return config


def fit(data: PreparedData, folder: Path, epochs: int, loss: Any = "full", **model: Any) -> Transformer:  # noqa: ANN401
    config = model_of(**model)
    training = data.training()
    fitted = fit_encoder(
        config,
        TrainingConfig(
            epochs=epochs, batch_size=24, learning_rate=5e-3, threads=1, device="cpu", precision="fp32",
            validate_every=5 if epochs > 5 else 1, loss=loss, negatives=24,
        ),
        training=training,
        n_items=N_ITEMS,
        validation=data.targets("valid"),
        checkpoints=folder,
        start=lambda config, n_items: fresh_encoder(config, data.items, training),
    )  # fmt: skip
    assert isinstance(fitted.encoder, Transformer)
    return fitted.encoder


def saved(folder: Path, model: Transformer, data: PreparedData, **settings: object) -> Bundle:
    save_bundle(
        folder, config=experiment(**settings), model=model, data=data, metrics={}, trained_on="training",
        best_epoch=1,
    )  # fmt: skip
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_songs(tmp_path_factory.mktemp("songs") / "data", walks(240))


@pytest.fixture(scope="module")
def both(songs: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return fit(songs, tmp_path_factory.mktemp("both"), 30)


@pytest.fixture
def bundle(songs: PreparedData, both: Transformer, tmp_path: Path) -> Bundle:
    return saved(tmp_path / "bundle", both, songs)


def by_warmth(model: Transformer, data: PreparedData) -> tuple[float, float]:
    """HR@5 of targets with and without a training event."""
    hits = evaluate(model, data, scores_cold=True).per_user["hr@5"]
    cold = np.isin(data.targets("test").items, COLD)
    return hits[~cold].mean(), hits[cold].mean()


def test_what_nobody_has_heard_is_recommended_by_its_title(songs: PreparedData, both: Transformer) -> None:
    warm, cold = by_warmth(both, songs)
    assert warm > 0.9
    assert cold > 0.5  # by chance 5 of 48
    assert both.trained_items[1:-1].tolist() == (np.asarray(songs.items["count"]) > 0).tolist()


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_by_text_alone_there_is_no_row_for_an_item(songs: PreparedData, tmp_path: Path, loss: str) -> None:
    model = fit(songs, tmp_path, 15, loss, item_encoder="text", name="bert4rec")
    assert len(model.item_embedding.weight) == 2
    warm, cold = by_warmth(model, songs)
    assert warm > 0.5 and cold > 0.4


def test_the_sum_is_of_what_stands_in_the_weights(songs: PreparedData, both: Transformer) -> None:
    assert both.tower is not None
    with torch.no_grad():
        text_VD = both.tower(torch.arange(1, N_ITEMS + 1))
        own_VD = both.item_embedding.weight[1:-1] * both.trained_items[1:-1, None]
        torch.testing.assert_close(both.compared(text_VD + own_VD), both.item_table())
        rows = torch.tensor([0, 1, COLD[0], N_ITEMS + 1])
        some, bias = both.outputs(rows)
        torch.testing.assert_close(some, both.outputs()[0][rows])
    assert bias.isneginf().tolist() == [True, False, True, True]  # what training never meets is no negative
    assert torch.equal(some[-1], both.item_embedding.weight[-1])


def test_items_show_their_text_alone_now_and_then(songs: PreparedData) -> None:
    torch.manual_seed(0)
    model = fresh_encoder(model_of(id_dropout=0.5), songs.items, songs.training())
    assert model.tower is not None
    with torch.no_grad():
        model.item_embedding.weight[1:] += 10
        own = model.train().outputs()[0][1:] - model.tower(torch.arange(1, N_ITEMS + 2).clamp(max=N_ITEMS))
    shown = own[:-1].mean(1) > 5
    assert 0.2 < shown.float().mean() < 0.7
    assert not shown[np.array(COLD) - 1].any()


def test_the_sentence_of_items_without_a_text_is_learned(songs: PreparedData) -> None:
    for share in (0.0, 0.5):
        config = model_of(item_encoder="text", unknown_prob=share)
        model = fresh_encoder(config, songs.items, songs.training()).train()
        assert model.tower is not None
        table = model.outputs()[0][1:-1]
        alike = (table == table.mode(0).values).all(1)
        assert share == 0 or 0.2 < alike.float().mean() < 0.8
        (table * torch.randn_like(table)).sum().backward()  # type: ignore[no-untyped-call]
        gradient = model.tower.token_embedding.weight.grad
        assert gradient is not None
        assert bool(gradient[model.tower.tokenizer.unknown].any()) == (share > 0)
        shown = model.eval().outputs()[0][1:-1]
        assert len(np.unique(shown.detach().numpy(), axis=0)) == N_ITEMS


def test_settings_of_texts_need_an_encoder_of_texts(songs: PreparedData, tmp_path: Path) -> None:
    for name, value in {"backbone": "x", "token_dropout": 0.1, "attributes": ["title"]}.items():
        with pytest.raises(
            InputError, match=f"{name} is of items' texts, which item_encoder `id` does not read"
        ):
            experiment(item_encoder="id", **{name: value})
    with pytest.raises(InputError, match="names `titel`, which the item table lacks"):
        fresh_encoder(model_of(attributes=["titel", "year"]), songs.items, songs.training())
    plain = build_encoder(model_of(item_encoder="id"), N_ITEMS).eval()
    older = saved(tmp_path / "older", plain, songs, item_encoder="id").folder
    tree = yaml.safe_load((older / "config.yaml").read_text())
    tree["model"] |= {"backbone": "x", "token_dropout": 0.1}
    (older / "config.yaml").write_text(yaml.safe_dump(tree))
    manifest = json.loads((older / "manifest.json").read_text())
    manifest["files"]["config.yaml"] = file_hash(older / "config.yaml")
    (older / "manifest.json").write_text(json.dumps(manifest))
    assert Bundle.load(older).config.model == model_of(item_encoder="id")


def test_a_step_reads_some_of_the_tokens(songs: PreparedData) -> None:
    model = fresh_encoder(model_of(token_dropout=0.5, id_dropout=0.0), songs.items, songs.training())
    with torch.no_grad():
        assert not torch.equal(model.train().outputs()[0], model.outputs()[0])
        assert torch.equal(model.eval().outputs()[0], model.outputs()[0])


def test_a_bundle_carries_the_tower(songs: PreparedData, both: Transformer, bundle: Bundle) -> None:
    assert evaluate_bundle(bundle, songs).metrics == evaluate(both, songs, scores_cold=True).metrics
    (bundle.folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json; the bundle is incomplete"):
        Bundle.load(bundle.folder)


def test_another_catalogue_is_ranked_by_text(bundle: Bundle, tmp_path: Path) -> None:
    other = write_songs(tmp_path / "other", walks(80, seed=5), prefix="other")
    assert evaluate_bundle(bundle, other).metrics["hr@5"] > 0.5


@pytest.mark.parametrize("scoring", ["cosine", "dot"])
def test_new_songs_join_without_training(songs: PreparedData, tmp_path: Path, scoring: str) -> None:
    settings: dict[str, Any] = {"scoring": scoring, "name": "bert4rec"}
    model = fit(songs, tmp_path / "fit", 1, **settings)
    with torch.no_grad():
        model.item_embedding.weight[1:-1] *= 20  # as after a long training: own vectors say much
    model.refresh()
    bundle = saved(tmp_path / "bundle", model, songs, **settings)
    before = evaluate_bundle(bundle, songs).metrics
    table = pa.table({"id": pa.array(["n1"]), **song_table([COLD[0]])})
    grown = add_items(bundle, table).bundle
    assert evaluate_bundle(grown, songs).metrics == before
    added = grown.model
    assert isinstance(added, Transformer)
    torch.testing.assert_close(added.item_table()[:-1], model.item_table())
    torch.testing.assert_close(added.item_table()[-1], model.item_table()[COLD[0] - 1], atol=1e-5, rtol=1e-4)
    known, new = torch.tensor([[1, 2, COLD[0]]]), torch.tensor([[1, 2, N_ITEMS + 1]])
    torch.testing.assert_close(added.encode(new), model.encode(known), atol=1e-4, rtol=1e-4)
    plain = build_encoder(model_of(item_encoder="id"), N_ITEMS).eval()
    with pytest.raises(InputError, match="knows items by their events alone"):
        add_items(saved(tmp_path / "plain", plain, songs, item_encoder="id"), table)


def test_a_grown_log_starts_from_the_same_tower(songs: PreparedData, bundle: Bundle, tmp_path: Path) -> None:
    grown = write_songs(tmp_path / "grown", walks(300, seed=3, avoid=()))
    start = WarmStart.checked(bundle, "yesterday", experiment(), grown)
    encoder = start.encoder(model_of(), grown, grown.training()).eval()
    former = bundle.model
    assert isinstance(former, Transformer) and encoder.tower is not None and former.tower is not None
    assert encoder.trained_items.all() and not former.trained_items.all()
    items = torch.arange(1, N_ITEMS + 1)
    torch.testing.assert_close(encoder.tower(items), former.tower(items))
    warm = former.trained_items[1:-1]
    table = encoder.outputs()[0][1:-1]
    torch.testing.assert_close(table[warm], former.outputs()[0][1:-1][warm])


def test_features_of_a_backbone_stay_as_they_are(songs: PreparedData, tmp_path: Path) -> None:
    reader = make_recformer(recformer().model, songs.items)[0]  # type: ignore[arg-type]
    save_bundle(
        tmp_path / "reader", config=recformer(), model=reader, data=songs, metrics={}, trained_on="training",
        best_epoch=1,
    )  # fmt: skip
    settings: dict[str, Any] = {"item_encoder": "text", "backbone": str(tmp_path / "reader")}
    model = fit(songs, tmp_path / "fit", 15, **settings)
    assert model.tower is not None and model.tower.encoder is not None
    for part, theirs in reader.encoder.state_dict().items():  # the places of items, too
        assert torch.equal(model.tower.encoder.state_dict()[part], theirs), part
    assert model.tower.encoder.reach == reader.encoder.reach
    assert by_warmth(model, songs)[0] > 0.5
    bundle = saved(tmp_path / "bundle", model, songs, **settings)
    assert evaluate_bundle(bundle, songs).metrics == evaluate(model, songs, scores_cold=True).metrics
    table = pa.table({"id": pa.array(["n1"]), **song_table([COLD[0]])})
    added = add_items(bundle, table).bundle.model
    assert isinstance(added, Transformer)
    torch.testing.assert_close(added.item_table()[-1], model.item_table()[COLD[0] - 1], atol=1e-4, rtol=1e-4)


def test_items_that_are_described_stand_in_a_history_and_are_scored(
    songs: PreparedData, bundle: Bundle
) -> None:
    build_index(bundle, songs.targets("test").histories, k=20)
    recommender = Recommender.load(bundle.folder, backend="exact")
    heard = next(index for index in range(2, N_ITEMS) if successor(index) not in COLD)
    by_id = [f"s{heard - 1}", f"s{heard}"]
    unheard = {name: column[0].as_py() for name, column in song_table([COLD[0]]).items()}
    plain = recommender.recommend(by_id, 5)
    asked = [Question([f"s{COLD[0]}"], 5), Question([ItemText(unheard)], 5), Question(by_id, 5)]
    known, told, again = recommender.answer(asked)
    assert isinstance(known, Recommendations) and isinstance(told, Recommendations)
    ids = [[each.id for each in answer.items if each.id != f"s{COLD[0]}"] for answer in (told, known)]
    assert ids[0][:4] == ids[1][:4]  # the one in the catalogue was left out as seen
    assert again == plain and told.fallback is None and told.unknown == []
    scores = recommender.score(by_id, [plain.items[0].id, "nobody", ItemText(unheard), f"s{COLD[0]}"])
    assert scores[0] == pytest.approx(plain.items[0].score, abs=1e-4) and scores[1] is None
    assert scores[2] == pytest.approx(scores[3], abs=1e-3)
    with pytest.raises(InputError, match="items have no attribute `colour`; they have title, year"):
        recommender.recommend([ItemText({"colour": "red"})])
    for year in ("old", 2**70):
        with pytest.raises(InputError, match="attribute `year` of a described item is no int64"):
            recommender.recommend([ItemText({"year": year})])
    with TestClient(create_app(recommender)) as client:
        sent = client.post("/v1/recommend", json={"history": [{"text": unheard}], "k": 5}).json()
        assert [each["id"] for each in sent["items"]] == [each.id for each in told.items]
        body = {"history": by_id, "items": [{"text": unheard}, "nobody"]}
        found = client.post("/v1/score", json=body).json()["scores"]
    assert found == [pytest.approx(scores[2], abs=1e-4), None]


def test_dates_are_described_as_json_has_them(songs: PreparedData, tmp_path: Path) -> None:
    model = fresh_encoder(model_of(), songs.items, songs.training()).eval()
    bundle = saved(tmp_path / "bundle", model, songs)
    columns = {"seen": pa.nulls(N_ITEMS, pa.timestamp("us")), "out": pa.nulls(N_ITEMS, pa.date32())}
    items = bundle.items
    for name, column in columns.items():
        items = items.append_column(name, column)
    dated = replace(bundle, items=items)
    day, moment = date(2024, 5, 1), datetime(2024, 5, 1, 9, 30)
    told = [ItemText({"out": "2024-05-01", "seen": "2024-05-01T09:30:00"}), ItemText({"out": day})]
    rows = described(dated, told)
    assert rows["out"].to_pylist() == [day, day] and rows["seen"].to_pylist() == [moment, None]
    with pytest.raises(InputError, match="attribute `out` of a described item is no date32"):
        described(dated, [ItemText({"out": "the first of May"})])


def test_a_model_of_ids_refuses_what_is_described(tmp_path: Path) -> None:
    data = write_songs(tmp_path / "data", walks(40))
    bundle = counting_bundle(tmp_path / "bundle", data, name="popularity")
    assert isinstance(bundle.model, CountingModel)
    recommender = Recommender(bundle, CountingIndex(bundle.model, "popularity"))
    with pytest.raises(InputError, match=r"`popularity`.* knows items by their ids alone; send ids"):
        recommender.recommend([ItemText({"title": "amber nine"})])
    with pytest.raises(InputError, match="counts, and scores no single items"):
        recommender.score(["s1"], ["s2"])
