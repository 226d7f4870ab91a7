"""Sequential recommendation: embeddings, next items, exports and an endpoint from interaction logs.

The whole engine in three calls:

    data = recsys.prepare(frame, sequence="user", item="item", time="time")
    model = recsys.train(data)
    model.recommend(["item-1", "item-2"], k=10)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Threads of PyTorch that wait for each other spin for a few microseconds and then sleep. Spinning
# without end made a training epoch five times slower on a machine that also did something else; sleeping at
# once, a quarter slower on one that did not. It counts only before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from recsys.dataset import PreparedData
    from recsys.recommender import Recommender
    from recsys.tuning import Tuned

__all__ = ["load", "prepare", "train", "tune"]


def prepare(
    frame: object,
    *,
    sequence: str = "sequence",
    item: str = "item",
    time: str | None = None,
    rating: str | None = None,
    event: str | None = None,
    items: object = None,
    item_id: str | None = None,
    title: str | None = None,
    time_unit: str = "s",
    clean: dict[str, Any] | None = None,
    split: str | dict[str, Any] = "leave_one_out",
    out: Path | str = "prepared/data",
) -> PreparedData:
    """Prepare a log that is a pandas, Polars or Arrow table.

    Args:
        frame: one row an event.
        sequence: column of the user, playlist or session id.
        item: column of the item id.
        time: column of the time, a datetime or a number of `time_unit`; None takes the rows' order.
        rating: column of the rating, for `clean={"min_rating": ...}`.
        event: column of the type of the event, for `split={"kind": ..., "targets": [...]}` and
            `training={"event_weights": {...}}`.
        items: table with a row an item, or None.
        item_id: its column of the item id; default: the name in `item`.
        title: its column of what a person reads.
        time_unit: s, ms, us or ns, for times that are numbers.
        clean: the section `clean` of a configuration.
        split: the section `split`, or just its kind.
        out: folder of the prepared data set; its last part is the experiment's name.

    Raises:
        InputError: a column is missing, a value is bad, or the folder holds another data set.
    """
    from recsys.cli import prepare_frame

    columns = {"sequence": sequence, "item": item, "time": time, "rating": rating, "event": event}
    tree = {
        "name": Path(out).name,
        "prepared": str(out),
        "data": {
            "columns": columns,
            "item_columns": {"id": item_id or item, "title": title},
            "time_unit": time_unit,
        },
        "clean": clean or {},
        "split": split,
    }
    return prepare_frame(frame, tree, items)


def train(
    data: PreparedData,
    model: str | dict[str, Any] = "bert4rec",
    *,
    training: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    tracking: dict[str, Any] | None = None,
    out: Path | str | None = None,
    final: bool = False,
    from_bundle: Path | str | None = None,
) -> Recommender:
    """Train a model, record it in MLflow, and give the recommender of its bundle.

    Args:
        data: what `prepare` gave, or `PreparedData.load(folder)`.
        model: the section `model` of a configuration, or just its name.
        training: the section `training`.
        index: the section `index`.
        tracking: the section `tracking`.
        out: folder of the run; default: `runs/NAME/MODEL`.
        final: fit all events, for the number of epochs that a former call without it chose.
        from_bundle: start from the weights of this bundle (a folder, `runs:/RUN_ID/bundle` or
            `models:/NAME@ALIAS`): known items keep their vectors.

    Raises:
        InputError: a key is unknown or of the wrong type, the data has nothing to validate on, or the bundle
            to start from does not fit.
    """
    from recsys.config import build_config
    from recsys.experiment import train as run
    from recsys.recommender import Recommender

    tree = _tree(data, model, training=training, index=index, tracking=tracking, out=out)
    config = build_config(tree, where="recsys.train")
    return Recommender.load(run(config, final=final, from_bundle=from_bundle).bundle)


def tune(
    data: PreparedData,
    model: str | dict[str, Any] = "bert4rec",
    *,
    minutes: float = 30.0,
    trials: int | None = None,
    training: dict[str, Any] | None = None,
    tracking: dict[str, Any] | None = None,
    out: Path | str | None = None,
) -> Tuned:
    """Choose the settings that depend on the data most, by validation alone.

    `recsys.train(data, **tuned.sections)` then trains the best. A search that is there already goes on.

    Args:
        data: what `prepare` gave, or `PreparedData.load(folder)`.
        model: the section `model` of a configuration, or just its name; its settings are the first trial.
        minutes: budget of this call.
        trials: at most so many, those of earlier calls included.
        training: the section `training`.
        tracking: the section `tracking`.
        out: folder of the run, the search in its folder `tune`; default: `runs/NAME/MODEL`.

    Raises:
        InputError: a key is unknown or of the wrong type, or there is nothing to tune or to validate on.
    """
    from recsys.config import build_config
    from recsys.tuning import tune as search

    tree = _tree(data, model, training=training, tracking=tracking, out=out)
    return search(build_config(tree, where="recsys.tune"), minutes=minutes, trials=trials)


def load(bundle: Path | str, *, tracking_uri: str | None = None) -> Recommender:
    """The recommender of a bundle.

    Args:
        bundle: a folder, `runs:/RUN_ID/bundle` or `models:/NAME@ALIAS`.
        tracking_uri: where the latter two are looked up; default: `$MLFLOW_TRACKING_URI`, else
            `sqlite:///mlflow.db`.

    Raises:
        InputError: there is no such bundle, or it was changed since it was written.
    """
    from recsys.config import default_tracking_uri
    from recsys.recommender import Recommender
    from recsys.registry import resolve_bundle

    return Recommender.load(resolve_bundle(str(bundle), tracking_uri or default_tracking_uri()))


def _tree(
    data: PreparedData,
    model: str | dict[str, Any],
    *,
    training: dict[str, Any] | None,
    tracking: dict[str, Any] | None,
    index: dict[str, Any] | None = None,
    out: Path | str | None,
) -> dict[str, Any]:
    """The configuration of an experiment on prepared data."""
    return {
        "data": {},
        **data.manifest.get("settings", {}),  # what the data was prepared with
        "name": data.path.name,
        "prepared": str(data.path),
        "model": model,
        "training": training or {},
        "index": index or {},
        "tracking": tracking or {},
        "output": None if out is None else str(out),
    }
