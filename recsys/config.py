"""The typed, frozen configuration of an experiment; unknown keys and wrong types are refused by name."""

from __future__ import annotations

import datetime
import difflib
import os
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from recsys.errors import InputError
from recsys.overrides import DEFAULT_MODEL, apply_overrides, parse_yaml


class Config(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _iso(value: object) -> object:
    """YAML reads an unquoted 2024-01-31 as a date; the configuration keeps it as text."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Moment = Annotated[str, BeforeValidator(_iso)]


class Columns(Config):
    """Which column of the log is what. Sequence files need none of it."""

    sequence: str | None = Field(
        None, description="user, playlist or session id; default `sequence`, in atomic files `user_id`"
    )
    item: str | None = Field(None, description="item id; default `item`, in atomic files `item_id`")
    time: str | None = Field(
        None,
        description="time of the event; default none (the log's own order counts), in atomic files "
        "`timestamp` where there is one",
    )
    rating: str | None = Field(
        None, description="rating, used by `clean.min_rating` alone; default none, in atomic files `rating`"
    )


class ItemColumns(Config):
    """Which column of the item table is what."""

    id: str | None = Field(None, description="item id, as in the log; default: the log's name of it")
    title: str | None = Field(None, description="what a person reads; stored as `title`")
    attributes: tuple[str, ...] | None = Field(
        None, strict=False, description="columns to keep besides (brand, genre, year, text); default: all"
    )


class DataConfig(Config):
    """Where the log is and how to read it."""

    path: str = Field("", description="the log: a file, a glob, or a folder that `events` and `items` are in")
    format: Literal["csv", "tsv", "parquet", "jsonl", "atomic", "sequences", "pairs", "sample"] = Field(
        "csv",
        description="csv, tsv, jsonl (each also .gz), parquet, atomic (RecBole), "
        "sequences (`user item item ...`), pairs (`user item`), sample (built in)",
    )
    events: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="file or glob inside the folder `path`, or a list of them"
    )
    items: str | None = Field(None, description="item table inside the folder `path`, or a path of its own")
    items_format: Literal["csv", "tsv", "parquet", "jsonl", "atomic"] | None = Field(
        None, description="format of the item table; default: that of the log"
    )
    columns: Columns = Columns()
    item_columns: ItemColumns = ItemColumns()
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="unit of times that are numbers")
    time_format: str | None = Field(
        None, description="strftime format of times that are text; default ISO 8601"
    )


class CleanConfig(Config):
    """What to drop before splitting, in this order; every step reports what it removed."""

    min_rating: float | None = Field(None, strict=False, description="keep events rated at least this")
    start: Moment | None = Field(None, description="keep events from this ISO date on (UTC)")
    end: Moment | None = Field(None, description="keep events before this ISO date (UTC)")
    duplicates: Literal["keep", "drop"] = Field(
        "drop", description="same sequence, item and time; a log without time has none"
    )
    repeats: Literal["keep", "first", "consecutive"] = Field(
        "keep", description="an item again in one sequence: keep, keep the first only, drop direct repeats"
    )
    min_sequence_length: int = Field(1, ge=1, description="k-core: events a sequence needs")
    min_item_count: int = Field(1, ge=1, description="k-core: events an item needs")
    max_sequence_length: int | None = Field(None, ge=2, description="keep the last so many events of each")


class LeaveOneOut(Config):
    """The last event of each sequence is the test target, the one before it the validation target."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class GlobalTime(Config):
    """Two cuts in time: nothing at or after the validation cut reaches training."""

    kind: Literal["global_time"] = "global_time"
    valid_from: Moment | float = Field(0.8, description="ISO date (UTC), or the fraction of events before it")
    test_from: Moment | float = Field(0.9, description="ISO date (UTC), or the fraction of events before it")


class UserHoldout(Config):
    """Whole sequences are held out of training; their last event is the target."""

    kind: Literal["user_holdout"] = "user_holdout"
    valid: float = Field(0.1, gt=0, lt=1, description="fraction of sequences held out for validation")
    test: float = Field(0.1, gt=0, lt=1, description="fraction of sequences held out for test")
    seed: int = Field(0, description="seed of the draw")


SplitConfig = Annotated[LeaveOneOut | GlobalTime | UserHoldout, Field(discriminator="kind")]


class TransformerConfig(Config):
    """Sizes that every transformer has."""

    dim: int = Field(64, ge=2, description="width D of items and hidden states")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads; must divide `dim`")
    max_length: int = Field(50, ge=2, description="positions N; BERT4Rec's appended [mask] takes one")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout of embeddings and residual branches")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class BERT4RecConfig(TransformerConfig):
    """The cloze-trained bidirectional encoder (Sun et al. 2019)."""

    name: Literal["bert4rec"] = "bert4rec"
    mask_prob: float = Field(0.2, gt=0, lt=1, description="share of items masked in a cloze sample (rho)")
    last_item_prob: float = Field(
        0.1, ge=0, le=1, description="share of training samples that mask only the last item"
    )


class SASRecConfig(TransformerConfig):
    """The causal encoder, trained to name the item after each (Kang and McAuley 2018)."""

    name: Literal["sasrec"] = "sasrec"


class PopularityConfig(Config):
    """Items by their number of training events."""

    name: Literal["popularity"] = "popularity"


class RecentPopularityConfig(Config):
    """Items by their number of training events in the last days of training."""

    name: Literal["recent_popularity"] = "recent_popularity"
    days: float = Field(7.0, gt=0, strict=False, description="length of the window")


class MarkovConfig(Config):
    """Markov chain on the last items, backing off to shorter contexts and then to popularity."""

    name: Literal["markov"] = "markov"
    order: int = Field(1, ge=1, le=3, description="items of the longest context")
    backoff: float = Field(0.4, gt=0, le=1, strict=False, description="factor of a step to a shorter context")


class ItemKNNConfig(Config):
    """Cosine of item co-occurrence, with the last item, the whole history, or the history weighted by age."""

    name: Literal["item_knn"] = "item_knn"
    history: Literal["last", "all", "recent"] = Field("last", description="who votes; recent: newest most")
    half_life: float = Field(3.0, gt=0, strict=False, description="recent: events until a vote is halved")
    neighbours: int = Field(1000, ge=1, description="nearest items kept for each item, 8 bytes each")


class ReplayConfig(Config):
    """The items of the history again, newest first, then popularity; for data with repeats."""

    name: Literal["replay"] = "replay"


Counting = PopularityConfig | RecentPopularityConfig | MarkovConfig | ItemKNNConfig | ReplayConfig
EncoderConfig = BERT4RecConfig | SASRecConfig
ModelConfig = Annotated[EncoderConfig | Counting, Field(discriminator="name")]


class TrainingConfig(Config):
    """How an encoder is trained; counting models need none of it."""

    epochs: int = Field(100, ge=1, description="at most so many passes; the learning rate reaches 0 there")
    batch_size: int = Field(128, ge=1, description="sequences (windows of at most `max_length`) of a step")
    loss: Literal["full", "sampled", "gbce"] = Field(
        "full", description="softmax over the whole catalogue, or over negatives, or gSASRec's gBCE"
    )
    negatives: int = Field(1024, ge=1, description="sampled, gbce: negatives that a step draws")
    negative_power: float = Field(
        0.5,
        ge=0,
        le=1,
        description="sampled: an item is drawn as its training count to this power; 0 uniformly",
    )
    calibration: float = Field(0.75, ge=0, le=1, description="gbce: t, from plain to calibrated")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of matrix products; auto: bf16 where the processor has it"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak rate, after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps that warm up linearly from 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay; not on biases and LayerNorm")
    clip_norm: float = Field(5.0, gt=0, description="largest gradient norm")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    patience: int = Field(10, ge=1, description="validations without a better NDCG@10 before stopping")
    seed: int = Field(0, ge=0, description="seed of weights, masks, batches and dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: PyTorch's own choice")

    @model_validator(mode="after")
    def _last_epoch_is_validated(self) -> TrainingConfig:
        if self.epochs > self.validate_every and self.epochs % self.validate_every:
            raise ValueError(
                f"epochs {self.epochs} is not a multiple of validate_every {self.validate_every}: the last "
                "epochs would never be validated"
            )
        return self


class IndexConfig(Config):
    """The item index of the bundle."""

    backend: Literal["annoy", "exact", "auto"] = Field("annoy", description="what `serve` searches with")
    recall: float = Field(0.99, gt=0, le=1, description="recall@100 to reach against exact search")


def default_tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or a database in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


def shown_uri(uri: str) -> str:
    """The URI as it may be printed and recorded: without the password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", uri)


class TrackingConfig(Config):
    """Where runs and models are recorded."""

    uri: str = Field(
        default_factory=default_tracking_uri,
        description="MLflow tracking URI; default: `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`",
    )
    experiment: str | None = Field(None, description="MLflow experiment; default: the configuration's name")
    registered_model: str | None = Field(None, description="registry name; default: the configuration's name")
    report: bool = Field(True, description="write report.html after training an encoder, and record it")


class ExperimentConfig(Config):
    """One YAML file under configs/."""

    name: str = Field(description="names the prepared folder, the run folder and the registered model")
    data: DataConfig
    clean: CleanConfig = CleanConfig()
    split: SplitConfig = LeaveOneOut()
    prepared: str | None = Field(None, description="prepared folder; default prepared/NAME")
    output: str | None = Field(
        None, description="run folder, which the bundle is in; default runs/NAME/MODEL"
    )
    model: ModelConfig = BERT4RecConfig()
    training: TrainingConfig = TrainingConfig()
    index: IndexConfig = IndexConfig()
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    def to_record(self) -> dict[str, Any]:
        """All settings as JSON values, without passwords: what is written down."""
        tree = self.model_dump(mode="json")
        tree["tracking"]["uri"] = shown_uri(self.tracking.uri)
        return tree

    @property
    def prepared_path(self) -> Path:
        """Folder of the prepared data set."""
        return Path(self.prepared or f"prepared/{self.name}")

    @property
    def registered_name(self) -> str:
        """Name of the registered model in MLflow."""
        return self.tracking.registered_model or self.name

    @property
    def output_path(self) -> Path:
        """Folder of the run: checkpoints and `bundle/`."""
        return Path(self.output or f"runs/{self.name}/{self.model.name}")


def load_config(file: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> ExperimentConfig:
    """Read a YAML file and apply `section.key=value` overrides (values are YAML too).

    A `split` or `model` given as a bare name (`model=markov`) takes that one's defaults.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, or a value is of the wrong type.
    """
    try:
        tree = parse_yaml(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no configuration {file}; the ready ones are under configs/") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise InputError(f"{file} holds {found}; expected sections such as `data:` and `model:`")
    apply_overrides(tree, overrides)
    return build_config(tree, where=str(file))


def build_config(tree: dict[str, Any], where: str) -> ExperimentConfig:
    """Validate a configuration given as nested dictionaries.

    Args:
        tree: sections and their keys.
        where: what to name in an error, such as the file.

    Raises:
        InputError: a key is unknown, missing, or of the wrong type.
    """
    expanded = dict(tree)
    for section, tag in (("model", "name"), ("split", "kind")):
        if isinstance(expanded.get(section), str):
            expanded[section] = {tag: expanded[section]}
    if isinstance(expanded.get("model"), dict):
        expanded["model"] = {"name": DEFAULT_MODEL, **expanded["model"]}
    if isinstance(expanded.get("split"), dict) and "kind" not in expanded["split"]:
        kinds = ", ".join(sections_of(SplitConfig))
        raise InputError(f"`split` in {where} has settings but no `kind`; set split.kind to one of {kinds}")
    try:
        return ExperimentConfig.model_validate(expanded)
    except ValidationError as error:
        raise InputError("; ".join(_explain(item, where) for item in error.errors())) from error


def setting_differences(left: Any, right: Any, path: str = "") -> list[str]:  # noqa: ANN401 -- any JSON value
    """Settings that differ between two records, as `section.key was A, is B`."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(left.keys() | right.keys())
        parts = (
            setting_differences(left.get(key), right.get(key), f"{path}.{key}".lstrip(".")) for key in keys
        )
        return [difference for part in parts for difference in part]
    return [] if left == right else [f"{path} was {left!r}, is {right!r}"]


def _explain(error: Any, where: str) -> str:  # noqa: ANN401 -- pydantic's ErrorDetails
    """One sentence for one of pydantic's errors, naming the key, the section and the remedy."""
    *parents, leaf = error["loc"] or ("",)
    tags = {name for union in (ModelConfig, SplitConfig) for name in sections_of(union)}
    section = ".".join(str(part) for part in parents if part not in tags)
    place = f"in `{section}` of {where}" if section else f"in {where}"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(leaf), _known_keys(parents), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(_known_keys(parents))}"
        return f"unknown key `{leaf}` {place}{hint}"
    if error["type"] == "missing":
        return f"key `{leaf}` is missing {place}"
    return f"`{leaf}` {place}: {error['msg']}; got {error.get('input')!r}"


def _known_keys(path: list[Any]) -> list[str]:
    """Keys of the section at a path of field names and union tags."""
    section: Any = ExperimentConfig
    for part in path:
        fields = getattr(section, "model_fields", {})
        section = fields[part].annotation if part in fields else sections_of(section).get(part, section)
    return list(section.model_fields) if hasattr(section, "model_fields") else []


def sections_of(annotation: Any) -> dict[str, type[Config]]:  # noqa: ANN401 -- a typing construct
    """The sections that a field can hold: by discriminator value for a union, under "" for just one."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return {"": annotation}
    if get_origin(annotation) not in (Union, types.UnionType):
        return {}
    members = [member for member in get_args(annotation) if hasattr(member, "model_fields")]
    return {_tag(member): member for member in members}


def _tag(section: type[Config]) -> str:
    """The value that chooses this member of a union: that of its field which can only have one."""
    return next(
        str(field.default)
        for field in section.model_fields.values()
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    )
