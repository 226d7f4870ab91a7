"""A whole configuration, and how it is read from YAML."""

from __future__ import annotations

import difflib
import json
import os
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import Field, ValidationError

from recsys.config.base import SECRET, Config
from recsys.config.data import CleanConfig, DataConfig, ExpectConfig, LeaveOneOut, SplitConfig
from recsys.config.models import BERT4RecConfig, ModelConfig
from recsys.config.sessions import SessionConfig, WholeSequences
from recsys.config.training import TrainingConfig
from recsys.errors import InputError
from recsys.overrides import DEFAULT_MODEL, apply_overrides, parse_yaml


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
    sessions: SessionConfig = WholeSequences()
    split: SplitConfig = LeaveOneOut()
    expect: ExpectConfig = ExpectConfig()
    prepared: str | None = Field(None, description="prepared folder; default prepared/NAME")
    output: str | None = Field(
        None, description="run folder, which the bundle is in; default runs/NAME/MODEL"
    )
    engine: Literal["polars", "spark"] = Field(
        "polars", description="what `prepare` cleans and splits with; the content is the same"
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
    for section, tag in (("model", "name"), ("split", "kind"), ("sessions", "by")):
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
        raise InputError("; ".join(explained(item, where) for item in error.errors())) from error


def setting_differences(left: Any, right: Any, path: str = "") -> list[str]:  # noqa: ANN401 -- any JSON value
    """Settings that differ between two records, as `section.key was A, is B`."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(left.keys() | right.keys())
        parts = (
            setting_differences(left.get(key), right.get(key), f"{path}.{key}".lstrip(".")) for key in keys
        )
        return [difference for part in parts for difference in part]
    return [] if left == right else [f"{path} was {left!r}, is {right!r}"]


def with_defaults(sections: dict[str, Any]) -> dict[str, Any]:
    """Recorded sections of a configuration, as they are recorded now: a key that came since has its default.

    What this version does not accept any more is left as it is, and differs.
    """
    try:
        config = ExperimentConfig.model_validate_json(json.dumps({"name": "", **sections}))
    except ValidationError:
        return sections
    return {name: getattr(config, name).model_dump(mode="json") for name in sections}


def explained(error: Any, where: str, root: type[Config] = ExperimentConfig) -> str:  # noqa: ANN401 -- ErrorDetails
    """One sentence for one of pydantic's errors about `root`, naming the key, the section and the remedy."""
    *parents, leaf = error["loc"] or ("",)
    tags = {tag for field in root.model_fields.values() for tag in sections_of(field.annotation)}
    section = ".".join(str(part) for part in parents if part not in tags)
    place = f"in `{section}` of {where}" if section else f"in {where}"
    if error["type"] == "extra_forbidden":
        known = _known_keys(root, parents)
        close = difflib.get_close_matches(str(leaf), known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(known)}"
        return f"unknown key `{leaf}` {place}{hint}"
    if error["type"] == SECRET:
        return f"{where}: {error['msg']}"
    if error["type"] == "missing":
        return f"key `{leaf}` is missing {place}"
    return f"`{leaf}` {place}: {error['msg']}; got {error.get('input')!r}"


def _known_keys(root: type[Config], path: list[Any]) -> list[str]:
    """Keys of the section at a path of field names and union tags below `root`."""
    section: Any = root
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
