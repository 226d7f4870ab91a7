from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recsys.config import BERT4RecConfig, build_config, load_config
from recsys.errors import InputError


def tree(**sections: Any) -> dict[str, Any]:  # noqa: ANN401 -- values of a configuration
    return {"name": "x", "data": {"path": "log.csv"}, **sections}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"name": "bert4rec", "mask_porb": 0.3}},
            r"unknown key `mask_porb` in `model` of .*did you mean `mask_prob`",
        ),
        ({"dta": {}}, r"unknown key `dta` in x\.yaml; did you mean `data`"),
        ({"training": {"epochs": "5"}}, r"`epochs` in `training` of x\.yaml: .*integer; got '5'"),
        ({"training": {"epochs": 0}}, "greater than or equal to 1; got 0"),
        (
            {"split": "by_magic"},
            "expected tags: 'leave_one_out', 'global_time', 'user_holdout', 'item_cold', 'low_resource'",
        ),
        ({"model": {"name": "bert4rec", "dim": 65}}, "dim 65 is not a multiple of heads 2"),
        ({"model": {"next_item_prob": 0.0}}, "read `last_item` is trained by next-item samples alone"),
        ({"model": {"name": "markov", "dim": 64}}, "unknown key `dim` in `model`"),
        (
            {"data": {"path": "x", "columns": {"itm": "a"}}},
            r"unknown key `itm` in `data\.columns`.*did you mean `item`",
        ),
    ],
)
def test_a_typo_is_named_and_never_becomes_a_default(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_config(tree(**sections), where="x.yaml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"key `data` is missing in x\.yaml"):
        build_config({"name": "x"}, where="x.yaml")


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ndata: {path: log.csv}\nmodel: {name: bert4rec, dim: 32}\n")
    config = load_config(file, ["data.path=../other", "model.mask_prob=0.5", "training.epochs=3"])
    assert (config.data.path, config.training.epochs) == ("../other", 3)
    assert isinstance(config.model, BERT4RecConfig)
    assert (config.model.dim, config.model.mask_prob) == (32, 0.5)
    assert load_config(file, ["model=markov"]).model.name == "markov"
    assert load_config(file, ["model.name=item_knn", "model.history=all"]).model.name == "item_knn"
    assert load_config(file, ["data.time_format=%d/%m/%Y %H:%M"]).data.time_format == "%d/%m/%Y %H:%M"
    assert load_config(file, ["model=item_knn", "model.history=all"]).model.name == "item_knn"
    with pytest.raises(InputError, match="override `epochs` has no `=`"):
        load_config(file, ["epochs"])
    with pytest.raises(InputError, match="`name` is a value, not a section"):
        load_config(file, ["name.first=y"])


def test_overrides_reach_sections_that_the_file_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ndata: {path: log.csv}\n")
    model = load_config(file, ["model.dim=16", "training.learning_rate=2e-3"]).model
    assert (model.name, getattr(model, "dim", None)) == ("bert4rec", 16)
    assert load_config(file, ["training.learning_rate=2e-3"]).training.learning_rate == 0.002
    with pytest.raises(InputError, match=r"no `kind`; set split\.kind to one of leave_one_out, global_time"):
        load_config(file, ["split.valid_from=0.7"])


def test_the_model_is_chosen_before_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x\ndata: {path: log.csv}\n")
    model = load_config(file, ["model.dim=16", "model.name=bert4rec"]).model
    assert getattr(model, "dim", None) == 16
    assert load_config(file, ["model.history=all", "model=item_knn"]).model.name == "item_knn"


def test_epochs_that_no_validation_sees_are_refused() -> None:
    with pytest.raises(InputError, match="epochs 9 is not a multiple of validate_every 5"):
        build_config(tree(training={"epochs": 9, "validate_every": 5}), where="x.yaml")
    build_config(tree(training={"epochs": 3, "validate_every": 5}), where="x.yaml")


def test_passwords_are_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(tree(tracking={"uri": "postgresql://ann:p@ss/w@db/x"}), where="x.yaml")
    assert config.to_record()["tracking"]["uri"] == "postgresql://ann:***@db/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert build_config(tree(), where="x.yaml").tracking.uri == "http://tracking:5000"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no configuration .*none\.yaml; the ready ones"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"bad\.yaml is not a readable YAML file"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("name: a\ndata: {path: x}\ndata: {path: y}\n")
    with pytest.raises(InputError, match=r"twice\.yaml is not a readable YAML file: `data` is there twice"):
        load_config(tmp_path / "twice.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="holds a list; expected sections"):
        load_config(tmp_path / "list.yaml")


def test_a_configuration_cannot_be_changed() -> None:
    config = build_config(tree(), where="x.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "y"  # type: ignore[misc]
