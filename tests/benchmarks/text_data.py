"""The data sets of the benchmark of texts: split as an experiment says, and in halves by category."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data_prep.prepare import prepare
from recsys.config import load_config
from recsys.dataset import PreparedData

CONFIGS = Path(__file__).parents[2] / "configs"
HALVES = "Restaurants"
"""The category of one half of Yelp's businesses; the other half has others."""
YELP_ITEMS = (
    "data.items=items.jsonl",
    "data.items_format=jsonl",
    "data.item_columns={id: id, title: title, attributes: [categories]}",
)


@dataclass(frozen=True)
class Experiment:
    """What is compared on what.

    Attributes:
        data: name of the data set, and of its configuration.
        split: overrides of the configuration's split.
        arms: label -> overrides of the model; the first is what the others are compared with.
        candidates: which items are ranked, see `evaluate`.
        half: of the businesses of Yelp, those of the category `HALVES` or the others; None for all.
    """

    data: str
    split: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    candidates: tuple[str, ...] = ("all",)
    half: bool | None = None


def prepared(experiment: Experiment, bench: Path, work: Path) -> tuple[list[str], PreparedData]:
    """Overrides that name the data, prepared, and the data."""
    source, items = bench / experiment.data, tuple[str, ...]()
    name = "-".join([experiment.data, *("".join(filter(str.isalnum, each)) for each in experiment.split)])
    if experiment.half is not None:
        name += "-of-it" if experiment.half else "-of-others"
    if experiment.data == "yelp":
        source, items = _with_item_lines(source, work / name, experiment.half), YELP_ITEMS
    # The published counts are of the whole data set, not of a part of it.
    expect = ["expect={}"] if experiment.split or experiment.half is not None else []
    overrides = [
        f"data.path={source}",
        f"prepared={work / 'prepared' / name}",
        *items,
        *experiment.split,
        *expect,
    ]
    config = load_config(CONFIGS / f"{experiment.data}.yaml", overrides)
    prepare(config)
    return overrides, PreparedData.load(config.prepared_path)


def _with_item_lines(source: Path, folder: Path, half: bool | None) -> Path:
    """The Yelp of S3-Rec with its items as JSON lines: key "i" of items.json is item i+1 of the log."""
    folder.mkdir(parents=True, exist_ok=True)
    items = {int(key) + 1: item for key, item in json.loads((source / "items.json").read_text()).items()}
    kept = {
        key: {"id": key, "title": item["title"], "categories": item["description"]}
        for key, item in items.items()
        if half is None or half == (HALVES in item["description"].split(", "))
    }
    sequences = []
    for line in (source / "sequences.txt").read_text().splitlines():
        user, *events = line.split()
        sequences.append(" ".join([user, *(each for each in events if int(each) in kept)]))
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, kept.values())))
    (folder / "sequences.txt").write_text("\n".join(line for line in sequences if line.count(" ") > 2) + "\n")
    return folder
