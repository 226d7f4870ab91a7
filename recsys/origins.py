"""What a training is made from, and whether another was made from the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from recsys.bundle import Bundle
from recsys.config import ExperimentConfig, setting_differences, with_defaults
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.models import reads_text
from recsys.text.backbone import backbone_digest
from recsys.warm_start import WarmStart


def fingerprint(
    config: ExperimentConfig,
    data: PreparedData,
    start: WarmStart | None = None,
    backbone: str | None = None,
) -> str:
    """Hash of everything that the trained weights depend on.

    Args:
        config: the experiment.
        data: what is trained on.
        start: the bundle that the weights start from.
        backbone: digest of the backbone, whose content the configuration does not tell.
    """
    parts = [config.model.model_dump_json(), config.training.model_dump_json(), data.digest]
    parts += [start.bundle.model_version] if start else []
    parts += [backbone] if backbone else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def checked_backbone(config: ExperimentConfig) -> str | None:
    """Digest of the backbone that an experiment reads; None without one.

    Raises:
        InputError: it cannot be had, or the training would write over it.
    """
    name = getattr(config.model, "backbone", None)
    if name is None or not reads_text(config.model):
        return None
    check_outside(Path(name), f"backbone {name}", config)
    return backbone_digest(name)


def check_outside(folder: Path, named: str, config: ExperimentConfig) -> None:
    """Refuse what a training is made from where the training writes.

    Raises:
        InputError: it stands there.
    """
    if folder.is_dir() and folder.resolve().is_relative_to(config.output_path.resolve()):
        raise InputError(
            f"{named} stands in {config.output_path}, which this training would write over; set `output` to "
            "another folder"
        )


def chosen_by_validation(
    config: ExperimentConfig, data: PreparedData, start: WarmStart | None, backbone: str | None
) -> Bundle:
    """The bundle of the same experiment whose validation chose the number of epochs.

    Raises:
        InputError: there is none, or it was made from something else.
    """
    folder = config.output_path / "bundle"
    remedy = "run `recsys train` on it without --final first"
    if not folder.exists():
        raise InputError(f"--final takes the number of epochs from {folder}, which is not there; {remedy}")
    bundle = Bundle.load(folder)
    if fingerprint(bundle.config, data) != fingerprint(config, data):
        raise InputError(f"{folder} was trained with other model or training settings; {remedy}")
    stated = bundle.manifest.get("started_from") or {}
    former = stated.get("model_version")
    if former != (start and start.bundle.model_version):
        raise InputError(
            f"{folder} was started from {former or 'fresh weights'}, not from "
            f"{start.bundle.model_version if start else 'fresh weights'}; give --final the same --from"
        )
    if bundle.manifest["data"]["content_digest"] != data.digest:
        raise InputError(f"{folder} was trained on other data than {data.path} now holds; {remedy}")
    if backbone != stated.get("backbone", backbone):  # older bundles do not state it
        raise InputError(f"{folder} was trained with another backbone than now stands at its place; {remedy}")
    return bundle


def check_settings(config: ExperimentConfig, data: PreparedData) -> None:
    """Refuse data that was prepared in another way than the configuration says."""
    stated = with_defaults(data.manifest.get("settings", {}))
    asked = config.model_dump(mode="json")
    differences = [
        difference
        for section in ("clean", "split")
        if section in stated
        for difference in setting_differences(stated[section], asked[section], section)
    ]
    if differences:
        raise InputError(
            f"{data.path} was prepared with other settings ({'; '.join(differences)}); run `recsys prepare` "
            "with these, or train with those"
        )
