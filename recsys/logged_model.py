"""A bundle as an MLflow model: logged to a run, registered as a version, loadable with `mlflow.pyfunc`.

The bundle travels as it is, with the code beside it: models from code, no pickle. What finds a version again,
and what a comparison needs, stands in its tags.
"""

from __future__ import annotations

import json
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.dataset import read_manifest
from recsys.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT = "bundle"
"""Name of the logged model in its run: `runs:/RUN_ID/bundle`."""

# What a process needs that loads a logged model; the package itself travels as code next to the bundle.
_REQUIREMENTS = ("mlflow", "numpy", "scipy", "pyarrow", "torch", "safetensors", "annoy", "pydantic", "pyyaml",
                 "narwhals", "pandas")  # fmt: skip


def bundle_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        InputError: the folder is no bundle.
    """
    remedy = "expected the folder of a bundle (`recsys train`), runs:/RUN_ID/bundle or models:/NAME@ALIAS"
    manifest = read_manifest(folder, remedy=remedy)
    if manifest.get("kind") != "bundle":
        raise InputError(f"{folder} holds a manifest of kind {manifest.get('kind')!r}; {remedy}")
    return manifest


def check_model_name(name: str) -> None:
    """Refuse a name that the registry cannot hold, before a training is spent on it.

    Raises:
        InputError: the name has a `/`, a `:` or a quote.
    """
    wrong = sorted(set(name) & set("/:'`\""))
    if wrong:
        raise InputError(
            f"a registered model cannot be called `{name}`: it has {' '.join(wrong)}; "
            "set tracking.registered_model to a name without"
        )


def register_bundle(client: MlflowClient, folder: Path, *, model_name: str, run_id: str) -> str:
    """Log a bundle to a run as an MLflow model and register it as a new version of `model_name`.

    Must be called inside `mlflow_session`.

    Returns:
        The new version.
    """
    import mlflow.pyfunc
    from mlflow.models import Model
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    facts = bundle_facts(bundle_manifest(folder))
    package = Path(__file__).parent
    # What mlflow.pyfunc.log_model does for the active run, done for a named one without global state.
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment_id, name=ARTIFACT, source_run_id=run_id, tags=facts)
    Model.log(
        artifact_path=None,
        model_id=model.model_id,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        python_model=str(package / "pyfunc_model.py"),
        artifacts={ARTIFACT: str(folder)},
        code_paths=[str(package)],
        # Without the local part: `2.13.0+cpu` is in no public index.
        pip_requirements=[f"{name}=={installed_version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        signature=_signature(),
    )
    try:
        client.get_registered_model(model_name)
    except mlflow.MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        client.create_registered_model(model_name)
    version = client.create_model_version(
        model_name, source=model.model_uri, run_id=run_id, tags=facts, model_id=model.model_id
    )
    return str(version.version)


def bundle_facts(manifest: dict[str, Any]) -> dict[str, str]:
    """Tags of a bundle's version: what finds it again and what a comparison needs."""
    return {
        "model": str(manifest["model"]),
        "model_version": str(manifest["model_version"]),
        "trained_on": str(manifest.get("trained_on", "")),
        "data_digest": str(manifest["data"]["content_digest"]),
        "metrics": json.dumps(manifest["metrics"]),
    }


def _signature() -> Any:  # noqa: ANN401 -- MLflow ships no types
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, ParamSchema, ParamSpec, Schema

    ids = Array(AnyType())  # type: ignore[no-untyped-call]  # integers or strings, as in the vocabulary
    return ModelSignature(
        inputs=Schema([ColSpec(ids, "history")]),
        outputs=Schema([ColSpec(ids, "items"), ColSpec(Array("double"), "scores")]),
        params=ParamSchema([ParamSpec("k", "long", 10)]),
    )
