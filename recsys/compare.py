"""Which of two models is better, asked of the same users: paired differences with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.bootstrap import FEWEST_USERS, Bootstrap, Interval
from recsys.bundle import Bundle
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import CUTOFFS, Evaluation, evaluate_bundle
from recsys.grown import evaluate_grown, has_grown
from recsys.metrics import metric_cutoff

METRICS = ("hr@10", "ndcg@10")
LEGEND = (
    "*: the 95% interval leaves 0 out; intervals are per slice, not corrected for looking at many; "
    f"[-]: none below {FEWEST_USERS} users"
)


@dataclass(frozen=True)
class Comparison:
    """B minus A on the same users.

    A user's difference is resampled as one value, so that what is hard for both models does not blur it. An
    interval that holds 0 shows no difference. Slices are many looks at one experiment: of twenty, one may be
    expected to leave 0 out by chance.

    Attributes:
        a: how A is called.
        b: how B is called.
        split: valid or test.
        protocol: of both evaluations.
        exclude_seen: of both evaluations.
        users: number of users.
        means: by metric, the means of A and of B.
        differences: by metric, B - A with its 95% interval.
        slices: by slicing and slice, users and differences.
    """

    a: str
    b: str
    split: str
    protocol: str
    exclude_seen: bool
    users: int
    means: dict[str, tuple[float, float]]
    differences: dict[str, Interval]
    slices: dict[str, dict[str, tuple[int, dict[str, Interval]]]]

    def verdict(self, metric: str) -> str:
        """One sentence: which is better and by how much, or that no difference can be shown."""
        found = self.differences[metric]
        by = found.text("+")
        if found.low > 0:
            return f"{self.b} is better than {self.a} in {metric}: {by}"
        if found.high < 0:
            return f"{self.b} is worse than {self.a} in {metric}: {by}"
        return f"no difference can be shown between {self.b} and {self.a} in {metric}: {by}"

    def lines(self) -> list[str]:
        """The comparison in plain text."""
        seen = "removed" if self.exclude_seen else "kept"
        ranking = f"seen items {seen}" if self.protocol == "full" else "sampled negatives"
        lines = [f"{self.split}, {self.protocol} ({ranking}), {self.users:,} users; differences are B - A"]
        lines += [f"  A is {self.a}", f"  B is {self.b}"]
        for metric, (a, b) in self.means.items():
            lines.append(f"  {self.verdict(metric)} ({a:.4f} -> {b:.4f})")
        for name, parts in self.slices.items():
            lines.append(f"  by {name}:")
            for part, (users, differences) in parts.items():
                shown = "  ".join(
                    f"{metric} {found.text('+')}{_mark(found)}" for metric, found in differences.items()
                )
                lines.append(f"    {part:6} {users:>9,} users  {shown}")
        return [*lines, f"  {LEGEND}"] if self.slices else lines

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON file."""
        return {
            "a": self.a,
            "b": self.b,
            "split": self.split,
            "protocol": self.protocol,
            "exclude_seen": self.exclude_seen,
            "users": self.users,
            "metrics": {
                metric: {"a": a, "b": b, **_difference(self.differences[metric])}
                for metric, (a, b) in self.means.items()
            },
            "verdicts": {metric: self.verdict(metric) for metric in self.differences},
            "slices": {
                name: {
                    part: {
                        "users": users,
                        "metrics": {metric: _difference(found) for metric, found in differences.items()},
                    }
                    for part, (users, differences) in parts.items()
                }
                for name, parts in self.slices.items()
            },
        }


def compare(
    a: Evaluation,
    b: Evaluation,
    *,
    metrics: Sequence[str] = METRICS,
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same targets.

    Args:
        a: the first.
        b: the second; positive differences speak for it.
        metrics: which to compare, such as `hr@10`.
        names: how to call them.
        seed: of the resamples.

    Raises:
        InputError: the two were not measured on the same users in the same way, or lack a metric.
    """
    ours, theirs = _pairing(a), _pairing(b)
    for what, value in ours.items():
        if theirs[what] != value:
            raise InputError(
                f"{names[0]} was measured with {what} {value}, {names[1]} with {theirs[what]}; a paired "
                "comparison needs the same users, split and protocol: evaluate both in one way"
            )
    for metric in metrics:
        if metric not in a.per_user or metric not in b.per_user:
            both = ", ".join(name for name in a.per_user if name in b.per_user)
            raise InputError(f"there is no metric `{metric}` to compare; known: {both}")
    bootstrap = Bootstrap({metric: b.per_user[metric] - a.per_user[metric] for metric in metrics}, seed)
    return Comparison(
        a=names[0],
        b=names[1],
        split=a.split,
        protocol=a.protocol,
        exclude_seen=a.exclude_seen,
        users=a.users,
        means={metric: (a.metrics[metric], b.metrics[metric]) for metric in metrics},
        differences=bootstrap.intervals(),
        slices={
            name: {part: (int(mask.sum()), bootstrap.intervals(mask)) for part, mask in parts.items()}
            for name, parts in a.slices.items()
        },
    )


def compare_bundles(
    a: Bundle,
    b: Bundle,
    *,
    data: Path | None = None,
    split: str = "test",
    protocol: str = "full",
    exclude_seen: bool = True,
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
) -> Comparison:
    """Evaluate two bundles of the same prepared data and compare them.

    A may have been trained on an earlier version of data that has grown since (`recsys prepare --append`).

    Args:
        a: the first bundle, of any model.
        b: the second.
        data: folder of the prepared data; default: where A's or else B's manifest says, its digest checked.
        split: valid or test.
        protocol: as for `evaluate`; sampled negatives are the same for both.
        exclude_seen: as for `evaluate`.
        metrics: which to compare, such as `hr@10`.
        seed: of negatives and resamples.

    Raises:
        InputError: the two are of different prepared data, one has seen the targets, or the data is missing.
    """
    settings: dict[str, Any] = {
        "split": split,
        "protocol": protocol,
        "exclude_seen": exclude_seen,
        "seed": seed,
    }
    settings["cutoffs"] = tuple(sorted({metric_cutoff(metric) for metric in metrics} | set(CUTOFFS)))
    digests = [str(bundle.manifest["data"]["content_digest"]) for bundle in (a, b)]
    if digests[0] == digests[1]:
        prepared = _prepared(a, b, data)
        first = evaluate_bundle(a, prepared, **settings)
    else:
        prepared = b.prepared_data(data)
        if not has_grown(a, prepared):
            raise InputError(
                f"{a.folder} was trained on data {digests[0][:12]}, {b.folder} on {digests[1][:12]}: they "
                "compare only on the same prepared data, or where the second has grown from the first "
                "(`recsys prepare --append`); train both on it"
            )
        first = evaluate_grown(a, prepared, b.config, **settings)
    second = evaluate_bundle(b, prepared, **settings)
    return compare(first, second, metrics=metrics, names=(_name(a), _name(b)), seed=seed)


def _pairing(one: Evaluation) -> dict[str, object]:
    """All that two evaluations must share for their users to be pairs."""
    return {
        "split": one.split,
        "protocol": one.protocol,
        "seen items": "removed" if one.exclude_seen else "kept",
        "data": one.data_digest,
        "users and targets": one.asked_digest,
        "seed of the negatives": None if one.protocol == "full" else one.seed,
    }


def _prepared(a: Bundle, b: Bundle, data: Path | None) -> PreparedData:
    try:
        return a.prepared_data(data)
    except InputError:
        if data is not None:
            raise
        return b.prepared_data()  # the same content, perhaps in a place that is still there


def _name(bundle: Bundle) -> str:
    return f"{bundle.config.model.name} {bundle.model_version}"


def _mark(found: Interval) -> str:
    """A sign for the eye where the interval leaves 0 out."""
    return " *" if found.low > 0 or found.high < 0 else ""


def _difference(found: Interval) -> dict[str, Any]:
    bounds = found.to_json(absent=None)
    return {"difference": bounds.pop("mean"), **bounds}
