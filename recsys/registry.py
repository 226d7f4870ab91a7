"""Bundles in MLflow's model registry: find one by URI, move the alias `champion`, move it back.

`promote(..., if_better=...)` evaluates the candidate and the champion on the same users where the prepared
data is at hand. Elsewhere it falls back on the figures in the tags of the two versions (see
`recsys.logged_model`).
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys import schema
from recsys.config import shown_uri
from recsys.errors import InputError
from recsys.logged_model import ARTIFACT, bundle_facts, bundle_manifest, check_model_name, register_bundle
from recsys.metrics import metric_cutoff
from recsys.mlflow_session import artifact_folder, experiment_named, find_run, mlflow_session

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias of the version that serves."""
PREVIOUS = "previous"
"""Alias of the version that served before it."""


@dataclass(frozen=True)
class PromoteResult:
    """What `promote` or `rollback` did.

    Attributes:
        model_name: the registered model.
        version: the version that is champion now.
        previous: the version that `previous` names now, or None.
        moved: whether `champion` moved.
        message: the same in words, for a person.
    """

    model_name: str
    version: str
    previous: str | None
    moved: bool
    message: str


def resolve_bundle(uri: str, tracking_uri: str) -> Path:
    """The folder of a bundle, fetched from MLflow where it is not one already.

    Downloads are kept in `$RECSYS_CACHE` (default `~/.cache/recsys`), so that the second time is quick; a
    logged model never changes, so they never go stale. An alias is always asked for anew.

    Args:
        uri: a folder, `runs:/RUN_ID/bundle`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        tracking_uri: where runs and models are recorded.

    Raises:
        InputError: the folder is no bundle, there is no such run, model or alias, or no server answers.
    """
    if not _is_remote(uri):
        bundle_manifest(Path(uri))
        return Path(uri)
    with mlflow_session(tracking_uri) as client:
        model_id = _logged_model(client, uri, tracking_uri)
        cache = Path(os.environ.get("RECSYS_CACHE") or Path.home() / ".cache" / "recsys")
        return _download(client, model_id, uri, cache / "models")


def promote(
    bundle_uri: str, *, model_name: str, tracking_uri: str, if_better: str | None = None
) -> PromoteResult:
    """Make a bundle's version the `champion`; the former champion becomes `previous`.

    A folder or a run's bundle that is no version of `model_name` yet is registered when it is made champion.

    Args:
        bundle_uri: as for `resolve_bundle`.
        model_name: the registered model.
        tracking_uri: where runs and models are recorded.
        if_better: move only when the bundle is better than the champion in this metric, such as `ndcg@10` of
            the test split: when the 95% interval of the paired difference on the same users lies above 0.
            Without the prepared data, when the stored figure is higher; the message then says so. Both must
            have been trained on the same prepared data, or the champion on an earlier version of the bundle's
            (`recsys prepare --append`). A first champion must have the figure too.

    Raises:
        InputError: as `resolve_bundle`; or the two cannot be compared: other data, or no such metric. Nothing
            is registered then.
    """
    check_model_name(model_name)
    if if_better:
        metric_cutoff(if_better)
    # The registry may be new when a folder comes; a URI into a registry that does not exist is a mistake.
    with mlflow_session(tracking_uri, create=not _is_remote(bundle_uri)) as client:
        candidate = _candidate(client, bundle_uri, model_name, tracking_uri)
        champion = _version_by_alias(client, model_name, CHAMPION)
        previous = _version_by_alias(client, model_name, PREVIOUS)
        former = str(previous.version) if previous else None
        if champion is None:
            if if_better:
                _stored(if_better, candidate)
            number = _registered(client, candidate, model_name, tracking_uri)
            client.set_registered_model_alias(model_name, CHAMPION, number)
            message = f"version {number} is the first champion of {model_name}"
            return PromoteResult(model_name, number, former, True, message)
        if candidate.facts.get("model_version") == champion.tags.get("model_version"):
            message = f"version {champion.version} of {model_name} is this model and the champion already"
            return PromoteResult(model_name, str(champion.version), former, False, message)
        because = ""
        if if_better:
            better, words = _better(candidate, _side(champion), if_better, tracking_uri)
            if not better:
                message = f"kept champion version {champion.version} of {model_name}: {words}"
                return PromoteResult(model_name, str(champion.version), former, False, message)
            because = f": {words}"
        number = _registered(client, candidate, model_name, tracking_uri)
        # `previous` first: a crash between the two steps must not lose the way back to what serves now.
        client.set_registered_model_alias(model_name, PREVIOUS, champion.version)
        client.set_registered_model_alias(model_name, CHAMPION, number)
        message = f"version {number} of {model_name} replaces champion {champion.version}{because}"
        return PromoteResult(model_name, number, str(champion.version), True, message)


def rollback(model_name: str, tracking_uri: str) -> PromoteResult:
    """Swap `champion` and `previous`.

    Raises:
        InputError: there is no such model, or it has no previous champion, or no server answers.
    """
    with mlflow_session(tracking_uri) as client:
        champion = _version_by_alias(client, model_name, CHAMPION)
        previous = _version_by_alias(client, model_name, PREVIOUS)
        if champion is None or previous is None:
            raise InputError(
                f"{model_name} at {shown_uri(tracking_uri)} has no previous champion to go back to, or is "
                "unknown there; `recsys promote BUNDLE` makes any bundle the champion"
            )
        client.set_registered_model_alias(model_name, CHAMPION, previous.version)
        client.set_registered_model_alias(model_name, PREVIOUS, champion.version)
    message = f"version {previous.version} of {model_name} is champion again, in place of {champion.version}"
    return PromoteResult(model_name, str(previous.version), str(champion.version), True, message)


def _is_remote(uri: str) -> bool:
    return uri.startswith(("runs:/", "models:/"))


@dataclass(frozen=True)
class _Side:
    """What a comparison knows of a bundle: of one version of the registry, or not registered yet.

    Attributes:
        title: how it is called.
        uri: where it is.
        facts: as in the tags of a version.
        version: its number, or None.
    """

    title: str
    uri: str
    facts: dict[str, str]
    version: str | None


def _side(version: ModelVersion) -> _Side:
    number, uri = str(version.version), f"models:/{version.name}/{version.version}"
    return _Side(f"version {number}", uri, version.tags, number)


def _candidate(client: MlflowClient, uri: str, model_name: str, tracking_uri: str) -> _Side:
    """The bundle that a URI means, with the version of `model_name` that holds it if there is one."""
    if uri.startswith((f"models:/{model_name}@", f"models:/{model_name}/")):
        return _side(_version_of_uri(client, uri, tracking_uri))
    folder = resolve_bundle(uri, tracking_uri)
    facts = bundle_facts(bundle_manifest(folder))
    versions = client.search_model_versions(f"name = '{model_name}'")
    same = [each for each in versions if each.tags.get("model_version") == facts["model_version"]]
    if same:
        return _side(max(same, key=lambda version: int(version.version)))
    return _Side(uri, str(folder), facts, None)


def _registered(client: MlflowClient, one: _Side, model_name: str, tracking_uri: str) -> str:
    """The version of `model_name` that holds this bundle, registered now if there was none."""
    if one.version:
        return one.version
    experiment = experiment_named(client, model_name, artifact_folder(tracking_uri))
    run = client.create_run(experiment.experiment_id, run_name=f"register {one.facts['model_version']}")
    number = register_bundle(client, Path(one.uri), model_name=model_name, run_id=run.info.run_id)
    client.set_terminated(run.info.run_id)
    return number


def _version_by_alias(client: MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        # The model or its alias is missing; SQL stores call the latter an invalid parameter.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _version_of_uri(client: MlflowClient, uri: str, tracking_uri: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    path = uri.removeprefix("models:/").strip("/")
    name, _, alias = path.partition("@")
    found: ModelVersion | None = None
    if alias:
        found = _version_by_alias(client, name, alias)
    else:
        name, _, number = path.rpartition("/")
        if not name or not number.isdigit():
            raise InputError(f"`{uri}` names no model; expected models:/NAME@ALIAS or models:/NAME/VERSION")
        try:
            found = client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    if found is None:
        known = sorted(model.name for model in client.search_registered_models(max_results=20))
        raise InputError(
            f"there is no {uri} at {shown_uri(tracking_uri)}; registered: {', '.join(known) or 'none'}; "
            "`recsys train` registers a model, `recsys promote BUNDLE` makes it the champion"
        )
    return found


def _logged_model(client: MlflowClient, uri: str, tracking_uri: str) -> str:
    """Id of the MLflow model that a `runs:/` or `models:/` URI means; it is unique and never changes."""
    if uri.startswith("models:/"):
        version = _version_of_uri(client, uri, tracking_uri)
        # Not every store keeps the id; the source that `register_bundle` gave names it in all of them.
        model_id = version.model_id or (version.source or "").removeprefix("models:/")
        if not model_id.startswith("m-"):
            raise InputError(f"{uri} holds no logged model; give a version that `recsys train` registered")
        return str(model_id)
    run_id, _, name = uri.removeprefix("runs:/").strip("/").partition("/")
    run = find_run(client, run_id)
    if run is None:
        raise InputError(
            f"there is no run `{run_id}` at {shown_uri(tracking_uri)}; expected runs:/RUN_ID/{ARTIFACT} of a "
            "run that is recorded there: check the id and tracking.uri"
        )
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in reversed(outputs):
        model = client.get_logged_model(output.model_id)
        if model.name == (name or ARTIFACT) and str(model.status) == "READY":
            return str(model.model_id)
    raise InputError(
        f"run {run_id} at {shown_uri(tracking_uri)} has no `{name or ARTIFACT}` (status {run.info.status}); "
        "its training did not come to an end: continue it with `recsys train --resume`"
    )


def _download(client: MlflowClient, model_id: str, uri: str, cache: Path) -> Path:
    """The bundle's folder of a logged model, from the cache or fetched into it in one step."""
    import mlflow.artifacts

    if model_id == ".." or Path(model_id).name != model_id:
        raise InputError(f"{uri} is of model id {model_id!r}; expected a bare name: register the model anew")
    kept = cache / model_id
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
            # The bundle alone, without MLflow's files around it.
            source = f"{client.get_logged_model(model_id).artifact_location}/artifacts"
            mlflow.artifacts.download_artifacts(source, dst_path=folder)
            if not kept.exists():  # another process may have been quicker
                (Path(folder) / "artifacts").rename(kept)
    # MLflow keeps the name that the bundle's folder had when it was logged.
    found = next(kept.glob(f"*/{schema.MANIFEST_FILE}"), None)
    if found is None:
        raise InputError(f"{uri} holds no bundle (see {kept}); expected a model that `recsys train` logged")
    bundle_manifest(found.parent)
    return found.parent


def _better(candidate: _Side, champion: _Side, metric: str, tracking_uri: str) -> tuple[bool, str]:
    """Whether the candidate is better, and why, in words."""
    from recsys.bundle import Bundle
    from recsys.compare import compare_bundles
    from recsys.evaluation import removes_seen

    a, b = (Bundle.load(resolve_bundle(side.uri, tracking_uri)) for side in (champion, candidate))
    try:
        removed = removes_seen(a.config) and removes_seen(b.config)
        found = compare_bundles(a, b, metrics=[metric], exclude_seen=removed)
    except InputError as error:  # no prepared data here, or another; a final bundle
        digests = [side.facts.get("data_digest", "unknown") for side in (candidate, champion)]
        if digests[0] != digests[1]:
            raise InputError(
                f"{candidate.title} was measured on data {digests[0][:12]}, champion {champion.title} on "
                f"{digests[1][:12]}: {metric} compares only on the same prepared data, or where the former "
                f"has grown from the latter ({error}); train both on it, or promote without --if-better"
            ) from error
        return _better_as_stored(candidate, champion, metric, str(error))
    return found.differences[metric].low > 0, f"{found.verdict(metric)} on the same {found.users:,} users"


def _better_as_stored(candidate: _Side, champion: _Side, metric: str, reason: str) -> tuple[bool, str]:
    """The stored figures alone, which have no interval.

    Raises:
        InputError: a figure is missing, or one was measured with seen items kept and the other without.
    """
    if (candidate.facts.get("model") == "replay") != (champion.facts.get("model") == "replay"):
        raise InputError(
            f"{candidate.title} and champion {champion.title} were measured by different rules (replay keeps "
            "seen items); promote without --if-better"
        )
    ours, theirs = _stored(metric, candidate, champion)
    better = ours > theirs
    words = (
        f"{metric} {ours:.6g} of {candidate.title} is {'' if better else 'not '}better than "
        f"{theirs:.6g} of {champion.title}; these are the stored figures, no interval was possible "
        f"({reason})"
    )
    return better, words


def _stored(metric: str, *sides: _Side) -> list[float]:
    """The metric that bundles were recorded with: of the test split in all of them, or else as it stands.

    Raises:
        InputError: one was recorded without.
    """
    keys = (f"test_{metric}", metric)
    stored = [json.loads(side.facts.get("metrics", "{}")) for side in sides]
    for key in keys:
        if all(key in metrics for metrics in stored):
            return [float(metrics[key]) for metrics in stored]
    lacking = next((n for n, metrics in enumerate(stored) if not metrics.keys() & set(keys)), len(sides) - 1)
    raise InputError(
        f"{sides[lacking].title} has no metric {metric} (it has {', '.join(stored[lacking]) or 'none'}); "
        "name one that was measured, or promote without --if-better"
    )
