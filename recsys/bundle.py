"""The bundle: a folder that is complete for recommending.

    manifest.json        format, model, version, hashes of every other file, metrics
    config.yaml          the experiment's configuration
    weights.safetensors  weights of an encoder, or the arrays of a counting model
    items.parquet        index, id, counts, title and attributes of the items
    tokenizer.json       only of a model that reads text
    index/               added by `recsys.index.build_index`; it has hashes of its own

Nothing in it is a pickle. Shapes: `V` items.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from numpy.typing import NDArray

from recsys import schema
from recsys.config import TEXT_SETTINGS, ExperimentConfig, build_config
from recsys.dataset import Part, PreparedData, read_manifest
from recsys.environment import TrainingRecord
from recsys.errors import InputError
from recsys.files import fsync
from recsys.models import COUNTING, TEXT_ENCODERS, build_encoder, counting_from_arrays, reads_text
from recsys.models.popularity import item_counts, recent_counts
from recsys.models.protocol import CountingModel, Model
from recsys.overrides import parse_yaml
from recsys.sequences import Ragged
from recsys.text.tokens import ItemTokenizer
from recsys.vocabulary import Vocabulary

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "weights.safetensors"
RECENT_DAYS = 7.0
"""What the column `recent` of a bundle's items.parquet counts: the events of these last days of training."""
TITLE = "title"
TOKENIZER_FILE = "tokenizer.json"
FORMER_FORMS: dict[str, dict[str, Any]] = {
    "bert4rec": {"norm": "post", "scoring": "dot", "next_item_prob": 0.0, "read": "mask"},
    "sasrec": {"feed_forward": "relu", "scoring": "dot"},
}
"""Model -> what its settings were before they could be set."""


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        folder: where it was read from.
        manifest: the content of manifest.json.
        config: the experiment that made it.
        vocabulary: the V items.
        items: items.parquet, row j is item index j+1; `id`, `count`, `recent`, then title and attributes.
        model: the trained model, in evaluation mode on the CPU.
    """

    folder: Path
    manifest: dict[str, Any]
    config: ExperimentConfig
    vocabulary: Vocabulary
    items: pa.Table
    model: Model

    @classmethod
    def load(cls, folder: Path | str) -> Bundle:
        """Read a bundle and check every hash in its manifest.

        Raises:
            InputError: the folder is no bundle or of a newer format, a file is missing or was changed, or
                weights and vocabulary do not fit each other.
        """
        path = Path(folder)
        manifest = read_manifest(path, remedy="expected a bundle, which `recsys train` makes")
        if manifest.get("kind") != "bundle":
            raise InputError(f"{path} is no bundle but something else with a manifest; give `recsys train`'s")
        _check_files(path, manifest)
        config = _read_config(path / CONFIG_FILE)
        items = pq.read_table(path / schema.ITEMS_FILE)
        vocabulary = Vocabulary(items[schema.ITEM_ID])
        if vocabulary.hash != manifest["vocabulary"]:
            raise InputError(
                f"the items of {path / schema.ITEMS_FILE} are not those of the manifest's vocabulary; "
                "the bundle was put together from different ones: copy it anew"
            )
        model = _read_model(path / WEIGHTS_FILE, config, len(vocabulary))
        return cls(path, manifest, config, vocabulary, items, model)

    @property
    def model_version(self) -> str:
        """Short hash of weights, items and model settings; every answer names it."""
        return str(self.manifest["model_version"])

    @property
    def training(self) -> TrainingRecord | None:
        """How it was trained; None where the bundle is older than this record.

        Raises:
            InputError: the record cannot be read.
        """
        stored = self.manifest.get("training")
        return None if stored is None else TrainingRecord.read(stored, self.folder / schema.MANIFEST_FILE)

    def prepared_data(self, path: Path | str | None = None, *, other_items: bool = False) -> PreparedData:
        """The prepared data set to export from or to evaluate on.

        Args:
            path: its folder. Default: the one that the bundle was trained on, whose content must not have
                changed since.
            other_items: take data of any catalogue: who asks does not read its item indices.

        Raises:
            InputError: it is missing, its vocabulary is not the bundle's, or it changed since training.
        """
        stated = self.manifest["data"]
        if path is None and not Path(stated["path"]).exists():
            raise InputError(
                f"{stated['path']}, the prepared data that {self.folder} was trained on, is not there; run "
                "`recsys prepare` to make it, or name a copy with --data"
            )
        data = PreparedData.load(path if path is not None else stated["path"])
        if not other_items:
            check_vocabulary(self.vocabulary, data, where=str(self.folder))
        if path is None and data.digest != stated["content_digest"]:
            raise InputError(
                f"{data.path} has content {data.digest[:12]}, but {self.folder} was trained on "
                f"{stated['content_digest'][:12]}: the data was prepared anew since; train again, or name "
                "the data set to use with --data"
            )
        return data


def check_vocabulary(vocabulary: Vocabulary, data: PreparedData, where: str) -> None:
    """Refuse prepared data whose item indices mean other items; items added since may be missing in it.

    Raises:
        InputError: the vocabularies differ.
    """
    if data.vocabulary.hash not in (vocabulary.hash, Vocabulary(vocabulary.ids[: len(data.vocabulary)]).hash):
        raise InputError(
            f"the {len(data.vocabulary)} items of {data.path} (vocabulary {data.vocabulary.hash[:12]}) are "
            f"not the {len(vocabulary)} of {where} (vocabulary {vocabulary.hash[:12]}); use the data set "
            "that it was trained on, or train on this one"
        )


def save_bundle(
    folder: Path | str,
    *,
    config: ExperimentConfig,
    model: Model,
    data: PreparedData,
    metrics: dict[str, float],
    trained_on: Part,
    best_epoch: int | None,
    training: TrainingRecord | None = None,
    started_from: dict[str, str] | None = None,
) -> Path:
    """Write a bundle; it appears under its name complete or not at all, and replaces an older bundle there.

    Args:
        folder: where to.
        config: the experiment.
        model: a trained encoder (a `torch.nn.Module`) or a fitted counting model of `config.model`.
        data: what it was trained on.
        metrics: by name, as validation and test gave them.
        trained_on: the training part only, with the validation targets (`training.fit`), or all events
            (`train --final`); counts follow it.
        best_epoch: the epoch the weights are of, from 1; None for a counting model.
        training: command, versions and time of the training.
        started_from: the bundle whose weights it began with, as `WarmStart.record`, and under `backbone` the
            digest of its backbone; None for fresh ones.

    Returns:
        The folder.

    Raises:
        InputError: something that is not a bundle stands at `folder`.
    """
    events, times = data.training(trained_on), data.training_times(trained_on)
    with written_folder(Path(folder)) as draft:
        hashes = _write_files(draft, config, model, _items_table(data, events, times))
        stated: dict[str, Any] = {
            "path": str(data.path.resolve()),
            "name": config.name,
            "content_digest": data.digest,
        }
        if times is not None and len(times):
            stated["trained_until"] = int(times.max())  # microseconds since 1970 UTC
        manifest = {
            "format_version": schema.FORMAT_VERSION,
            "kind": "bundle",
            "model": config.model.name,
            "model_version": _version(hashes, config),
            "files": hashes,
            "vocabulary": data.vocabulary.hash,
            "data": stated,
            "trained_on": trained_on,
            "started_from": started_from,
            "best_epoch": best_epoch,
            "metrics": metrics,
            "training": training and training.model_dump(mode="json", exclude_none=True),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_manifest(draft, manifest)
    return Path(folder)


def save_changed(folder: Path, bundle: Bundle, *, model: Model, items: pa.Table, **facts: object) -> Path:
    """Write `bundle` with another model of its configuration and other items, without an index.

    As `save_bundle` does; `facts` are more of the manifest, and `folder` may be the bundle's own.
    """
    with written_folder(folder) as draft:
        hashes = _write_files(draft, bundle.config, model, items)
        changed = {
            "model_version": _version(hashes, bundle.config),
            "files": hashes,
            "vocabulary": Vocabulary(items[schema.ITEM_ID]).hash,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_manifest(draft, bundle.manifest | changed | facts)
    return folder


def _write_manifest(draft: Path, manifest: dict[str, Any]) -> None:
    (draft / schema.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


@contextmanager
def written_folder(target: Path, kind: str = "bundle") -> Iterator[Path]:
    """A folder to write into that takes the name `target` when all went well, and vanishes otherwise.

    An older one at `target` is replaced if its manifest states the same kind.
    """
    if target.exists() and not _is_of_kind(target, kind):
        raise InputError(f"{target} exists and is not a {kind}; name another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would keep a server under another user out
        yield draft
        for entry in draft.iterdir():
            entry.chmod(0o644)  # safetensors writes 0600
            fsync(entry)
        fsync(draft)
        if target.exists():
            # A folder cannot be replaced in one step: the old one steps aside, then the new one steps in.
            former = draft.with_name(f"{draft.name}-former")
            target.rename(former)
            try:
                draft.rename(target)
            except BaseException:
                former.rename(target)
                raise
            shutil.rmtree(former)
        else:
            draft.rename(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_files(draft: Path, config: ExperimentConfig, model: Model, items: pa.Table) -> dict[str, str]:
    """Everything but the manifest; gives the hash of each file by its name."""
    _write_model(draft / WEIGHTS_FILE, model)
    settings = yaml.safe_dump(config.to_record(), sort_keys=False, allow_unicode=True)
    (draft / CONFIG_FILE).write_text(settings, encoding="utf-8")
    pq.write_table(items, draft / schema.ITEMS_FILE)
    return {file.name: schema.file_hash(file) for file in sorted(draft.iterdir())}


def _is_of_kind(folder: Path, kind: str) -> bool:
    try:
        return bool(read_manifest(folder, remedy="").get("kind") == kind)
    except InputError:
        return False


def _version(hashes: dict[str, str], config: ExperimentConfig) -> str:
    """Equal for bundles that answer alike: paths and names in the configuration do not count."""
    parts = [hashes[WEIGHTS_FILE], hashes[schema.ITEMS_FILE], config.model.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _items_table(data: PreparedData, events: Ragged, times: NDArray[np.int64] | None) -> pa.Table:
    """The data set's items with `count` and `recent` of the events that were trained on."""
    size = len(data.vocabulary)
    columns = {
        schema.ITEM_INDEX: data.items[schema.ITEM_INDEX],
        schema.ITEM_ID: data.items[schema.ITEM_ID],
        schema.ITEM_COUNT: pa.array(item_counts(events.values, size)),
        schema.ITEM_RECENT: pa.array(recent_counts(events, times, size, RECENT_DAYS)),
    }
    others = [name for name in data.items.column_names if name not in columns]
    return pa.table(columns | {name: data.items[name] for name in others})


def _write_model(file: Path, model: Model) -> None:
    if isinstance(model, torch.nn.Module):
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        safetensors.torch.save_file(state, file)
        if tokenizer := getattr(model, "tokenizer", None):
            file.with_name(TOKENIZER_FILE).write_text(tokenizer.definition, encoding="utf-8")
    else:
        arrays = cast(CountingModel, model).arrays().items()
        safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays}, file)


def _read_model(file: Path, config: ExperimentConfig, n_items: int) -> Model:
    """The model of a weights file, refused unless it speaks of exactly `n_items` items."""
    name = config.model.name
    try:
        if name in COUNTING:
            counting = counting_from_arrays(config.model, safetensors.numpy.load_file(file))
            size = len(counting.prior)
            model: Model = counting
        elif reads_text(config.model):
            tokenizer = ItemTokenizer(file.with_name(TOKENIZER_FILE).read_text(encoding="utf-8"))
            state = safetensors.torch.load_file(file)
            reader = cast(torch.nn.Module, TEXT_ENCODERS[name](config.model, n_items, state, tokenizer))
            model, size = cast(Model, reader.eval().requires_grad_(False)), n_items
        else:
            encoder = build_encoder(config.model, n_items)
            encoder.load_state_dict(safetensors.torch.load_file(file))
            model = cast(Model, encoder.eval().requires_grad_(False))
            size = n_items
    except (RuntimeError, KeyError, ValueError) as error:
        raise _misfit(file, n_items, str(error)) from error
    if size != n_items:
        raise _misfit(file, n_items, f"they are of {size} items")
    return model


def _misfit(file: Path, n_items: int, reason: str) -> InputError:
    return InputError(
        f"the weights in {file} do not fit the configuration and the {n_items} items beside them ({reason}); "
        "the bundle was put together from different ones: train again or copy it anew"
    )


def _read_config(file: Path) -> ExperimentConfig:
    """The experiment; of a bundle from before `FORMER_FORMS` could be chosen, with the one there was.

    Settings of texts beside `item_encoder: id` are refused now, and said nothing in older bundles.
    """
    tree = parse_yaml(file.read_text(encoding="utf-8"))
    model = tree["model"]
    if "scoring" not in model:
        tree["model"] = FORMER_FORMS.get(model["name"], {}) | model
    if model.get("item_encoder") == "id":
        tree["model"] = {name: value for name, value in tree["model"].items() if name not in TEXT_SETTINGS}
    return build_config(tree, where=str(file))


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    needed = [CONFIG_FILE, WEIGHTS_FILE, schema.ITEMS_FILE]
    needed += [TOKENIZER_FILE] if TOKENIZER_FILE in manifest["files"] else []
    for name in needed:
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} has no {name}; the bundle is incomplete: copy it anew or train again")
        expected, got = manifest["files"].get(name), schema.file_hash(file)
        if got != expected:
            raise InputError(
                f"{file} has SHA-256 {got[:12]}, but the manifest says {str(expected)[:12]}: it was changed "
                "or damaged since it was written; copy the bundle anew or train again"
            )
