"""A training that starts from the weights of an earlier one, on a log that has grown since: the nightly job.

Items keep their vectors by their original id, wherever they stand in the new vocabulary. An item that the
earlier training saw no event of starts where the items stand that come right before and after it.

Shapes: `V` items of the new data, `K` of them known, `U` of the bundle's, `D` width, `E` events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from recsys import schema
from recsys.bundle import WEIGHTS_FILE, Bundle
from recsys.config import EncoderConfig, ExperimentConfig, setting_differences
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.fresh import fresh_encoder
from recsys.models import COUNTING
from recsys.models.text_tower import SENTENCES
from recsys.models.transformer import Transformer
from recsys.sequences import Ragged

FREE = {
    "dropout",
    "attention_dropout",
    "mask_prob",
    "last_item_prob",
    "next_item_prob",
    "read",
    "id_dropout",
    "token_dropout",
    "unknown_prob",
}
"""Settings of an encoder that no weight depends on; all others must be those of the bundle."""
ITEM_ROWS = {"item_embedding.weight": (1, 1), "item_bias": (0, 0)}
"""Weights with a row an item -> rows before and after these (PAD and MASK), taken over as they are."""
CATALOGUE = {f"tower.{name}" for name in (*SENTENCES, "features")} | {"item_vectors", "trained_items"}
"""What a model keeps of its items and computes anew of others."""


@dataclass(frozen=True)
class WarmStart:
    """The bundle that a training starts from, known to fit it.

    Attributes:
        bundle: an encoder, fitted to the training part of its data.
        named: how the user named it.
    """

    bundle: Bundle
    named: str

    @classmethod
    def checked(cls, bundle: Bundle, named: str, config: ExperimentConfig, data: PreparedData) -> WarmStart:
        """Take a bundle, if a training of this configuration on this data can start from it.

        Raises:
            InputError: one of the two models counts, their settings or the types of their ids differ, no
                item is known, or the bundle has seen what validation asks for.
        """
        for model, where in ((config.model.name, "the configuration"), (bundle.config.model.name, named)):
            if model in COUNTING:
                raise InputError(
                    f"`{model}` of {where} counts and has no weights to start from; train it without --from"
                )
            if model == "recformer":
                raise InputError(
                    f"`{model}` of {where} knows items by their text, not by their id; start it from a "
                    "bundle with model.backbone instead of --from"
                )
        former, asked = (
            {key: value for key, value in one.model.model_dump(mode="json").items() if key not in FREE}
            for one in (bundle.config, config)
        )
        if differing := setting_differences(former, asked, "model"):
            raise InputError(
                f"the weights of {named} do not fit this configuration ({'; '.join(differing)}); train with "
                "its settings, or without --from"
            )
        theirs, ours = ("integers" if one.vocabulary.holds_integers else "strings" for one in (bundle, data))
        if theirs != ours:
            raise InputError(
                f"item ids of {named} are {theirs}, those of {data.path} are {ours}, so that no item is the "
                "same; prepare the data with ids of one type, or train without --from"
            )
        start = cls(bundle, named)
        if not (start.known(data) >= 0).any():
            raise InputError(
                f"{named} knows none of the {len(data.vocabulary)} items of {data.path}; train without --from"
            )
        check_unseen(bundle, named, config, data)
        return start

    @property
    def record(self) -> dict[str, str]:
        """What is written down of it: name, model version and SHA-256 of the weights."""
        weights = str(self.bundle.manifest["files"][WEIGHTS_FILE])
        return {"bundle": self.named, "model_version": self.bundle.model_version, "weights": weights}

    def summary(self, data: PreparedData) -> str:
        """A line for people."""
        known = int((self.known(data) >= 0).sum())
        return (
            f"starting from {self.named} (version {self.bundle.model_version}): {known:,} of "
            f"{len(data.vocabulary):,} items are known"
        )

    def known(self, data: PreparedData) -> NDArray[np.int64]:
        """(V,) row of each item in the bundle's item table, -1 where it is new.

        New is also what the bundle has in its vocabulary without an event in training: its vector has
        learned nothing but not to be an answer.
        """
        rows = self.bundle.vocabulary.encode_array(data.vocabulary.ids).astype(np.int64) - 1
        trained = np.asarray(self.bundle.items[schema.ITEM_COUNT]) > 0
        return np.where((rows >= 0) & trained[rows], rows, -1)

    def encoder(self, config: EncoderConfig, data: PreparedData, training: Ragged) -> Transformer:
        """An encoder for the new items with the bundle's weights.

        A new item gets the mean vector of the known items right before and after its events (of all known
        items where there are none), and its fresh draw on top, so that no two are equal.

        Args:
            config: the model.
            data: the new data, with V items.
            training: the sequences to train on, with the neighbours of new items.
        """
        former_model = cast(Transformer, self.bundle.model)
        encoder = fresh_encoder(config, data.items, training, tokenizer=former_model.tokenizer)
        former = former_model.state_dict()
        rows = self.known(data)
        with torch.no_grad():
            for name, weights in encoder.state_dict().items():  # these share memory with the encoder's own
                if name in CATALOGUE:
                    continue
                if name not in encoder.row_weights:
                    weights.copy_(former[name])
                    continue
                before, after = ITEM_ROWS[name]
                items = slice(before, len(weights) - after)
                weights[:before] = former[name][:before]
                weights[items.stop :] = former[name][len(former[name]) - after :]
                old_UD = former[name][before : len(former[name]) - after]
                beside = None if encoder.tower else training  # a text says more than its neighbours
                weights[items] = _placed(old_UD, weights[items], rows, beside)
        if encoder.tower:
            encoder.tower.read()
        return encoder


def _placed(
    old_UD: torch.Tensor, fresh_VD: torch.Tensor, rows: NDArray[np.int64], training: Ragged | None
) -> torch.Tensor:
    """(V, D) the bundle's vectors (or (V,) biases) of known items, and fresh ones put in their place.

    Args:
        old_UD: of the bundle's items.
        fresh_VD: as drawn for the new ones.
        rows: (V,) row of each item in the former, -1 where it is new.
        training: the sequences that tell which items are next to each other; None leaves new items as drawn.
    """
    known, (V, *shape) = rows >= 0, fresh_VD.shape
    table_VD = np.zeros((V, int(np.prod(shape))), dtype=np.float32)
    table_VD[known] = old_UD.numpy().reshape(len(old_UD), -1)[rows[known]]
    means_VD = np.zeros_like(table_VD) if training is None else _beside(table_VD, known, training)
    placed = np.where(known[:, None], table_VD, means_VD + fresh_VD.numpy().reshape(V, -1))
    return torch.from_numpy(placed.reshape(fresh_VD.shape).astype(np.float32))


def _beside(table_VD: NDArray[np.float32], known: NDArray[np.bool_], training: Ragged) -> NDArray[np.float32]:
    """(V, D) mean vectors of the known items right before and after each; of all of them where none is."""
    V = len(table_VD)
    left, right = training.values[:-1] - 1, training.values[1:] - 1
    inside = np.ones(len(left), dtype=bool)
    inside[training.offsets[(training.offsets > 0) & (training.offsets < len(training.values))] - 1] = False
    pairs = np.concatenate([np.stack([left, right])[:, inside], np.stack([right, left])[:, inside]], axis=1)
    asking, answering = pairs[:, ~known[pairs[0]] & known[pairs[1]]]
    counts_VV = sp.csr_array((np.ones(len(asking), dtype=np.float32), (asking, answering)), shape=(V, V))
    counts_V = counts_VV.sum(axis=1)
    sums_VD = counts_VV @ table_VD
    means_VD: NDArray[np.float32] = np.where(
        counts_V[:, None] > 0, sums_VD / np.maximum(counts_V, 1)[:, None], table_VD[known].mean(axis=0)
    )
    return means_VD


def check_unseen(bundle: Bundle, named: str, config: ExperimentConfig, data: PreparedData) -> None:
    """Refuse a bundle that was fitted to what validation and test now ask for.

    Raises:
        InputError: it was, or it may have been: another split keeps other events back.
    """
    if bundle.manifest["trained_on"] == "all":
        raise InputError(
            f"{named} was fitted to all events (--final), to those that validation asks for too; start from "
            "the bundle of the run that chose its epochs"
        )
    if config.split.kind == bundle.config.split.kind == "global_time":
        until, cut = (
            bundle.manifest["data"].get("trained_until"),
            data.manifest["split"]["valid_cut_microseconds"],
        )
        if until is None or until >= cut:
            raise InputError(
                f"{named} was fitted to events after the validation cut of {data.path}, so that validation "
                "would measure what it has seen; prepare the data with a later split.valid_from"
            )
        return
    if bundle.manifest["trained_on"] != "training":
        raise InputError(
            f"{named} was fitted to the validation targets too (training.fit), which are asked for now; "
            "start from a bundle that was fitted to the training part"
        )
    times, until = data.training_times(), bundle.manifest["data"].get("trained_until")
    if times is not None and until is not None and until > times.max(initial=0):
        raise InputError(
            f"{named} was fitted to events later than all training events of {data.path}, and may have seen "
            "what validation and test ask for; start from a bundle of an earlier log"
        )
    former, asked = (one.split.model_dump(mode="json") for one in (bundle.config, config))
    if differing := setting_differences(former, asked, "split"):
        raise InputError(
            f"{named} was fitted under another split ({'; '.join(differing)}) and may have seen what "
            "validation asks for; prepare the data with its split, or train without --from"
        )
