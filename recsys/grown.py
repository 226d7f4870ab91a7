"""Yesterday's model on today's log: a bundle measured on a data set that has grown since its training.

Items are matched by original id. What the bundle does not know it ignores in a history, and as a target it is
a miss: so it would answer today.

Shapes: `B` users of a block, `V` items of the grown data, `U` of the bundle.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import ExperimentConfig
from recsys.dataset import PreparedData, split_named
from recsys.evaluation import Evaluation, evaluate
from recsys.models import check_has_answers, scores_cold
from recsys.protocols import Protocol
from recsys.ranking import LOWEST, Scorer, score_function
from recsys.sequences import Ragged
from recsys.warm_start import check_unseen


def has_grown(bundle: Bundle, data: PreparedData) -> bool:
    """Whether the data is a later version of what the bundle was trained on (`recsys prepare --append`)."""
    return bundle.manifest["data"]["content_digest"] in data.manifest.get("grown_from", ())


def evaluate_grown(
    bundle: Bundle,
    data: PreparedData,
    config: ExperimentConfig,
    *,
    split: str = "test",
    protocol: str = "full",
    exclude_seen: bool = True,
    **more: Any,  # noqa: ANN401 -- passed on as they are
) -> Evaluation:
    """Measure a bundle on a later version of its data, where it has seen no target.

    Args:
        bundle: trained on the earlier version.
        data: the later version.
        config: of a model that was trained on the later version; its split counts.
        split: as for `evaluate`.
        protocol: as for `evaluate`.
        exclude_seen: as for `evaluate`.
        more: further arguments of `evaluate`.

    Raises:
        InputError: it may have seen targets, or has nothing to say under `exclude_seen`.
    """
    check_unseen(bundle, str(bundle.folder), config, data)
    check_has_answers(bundle.config.model.name, exclude_seen=exclude_seen and protocol == "full")
    return evaluate(
        grown_scorer(bundle, data),
        data,
        split=split_named(split),
        protocol=cast(Protocol, protocol),
        exclude_seen=exclude_seen,
        scores_cold=scores_cold(bundle.config.model),
        **more,
    )


def grown_scorer(bundle: Bundle, data: PreparedData) -> Scorer:
    """The bundle's scores for the items of other data; those that it does not know get the lowest."""
    own = bundle.vocabulary.encode_array(data.vocabulary.ids)  # (V,) index in the bundle, 0 where unknown
    index_of = np.r_[np.zeros(1, dtype=own.dtype), own]  # by index in the data, PAD first
    known = own > 0
    score = score_function(bundle.model)

    def scores(histories: Ragged) -> NDArray[np.float32]:
        indices = index_of[histories.values]
        kept = indices > 0
        lengths = np.bincount(histories.rows[kept], minlength=len(histories))
        theirs_BU = score(Ragged(indices[kept], np.r_[0, np.cumsum(lengths)]))
        scores_BV = np.full((len(histories), len(own)), LOWEST, dtype=np.float32)
        scores_BV[:, known] = theirs_BU[:, own[known] - 1]
        return scores_BV

    return scores
