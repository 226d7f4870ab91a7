"""What a playlist encoder is made of: typed settings, as in a configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from recsys.config.base import Config
from recsys.config.experiment import explained
from recsys.errors import InputError
from recsys.overrides import apply_overrides


class TrainedConfig(Config):
    """What every encoder with gradients has."""

    epochs: int = Field(60, ge=1, description="passes over the training playlists")
    batch_size: int = Field(64, ge=1, description="playlists (windows of at most `max_length`) of a step")
    learning_rate: float = Field(2e-3, gt=0, description="peak rate, after the warm-up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of matrices")


class PooledConfig(TrainedConfig):
    """The cloze-trained encoder with a pooled vector that holds content, length and order."""

    name: Literal["pooled"] = "pooled"
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads; must divide `dim`")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout of embeddings and residual branches")
    mask_prob: float = Field(0.2, gt=0, lt=1, description="share of tracks masked in a cloze sample")
    epochs: int = Field(4, ge=1, description="passes over the training playlists")
    track_rate: float = Field(
        0.02,
        gt=0,
        le=1,
        description="learning rate of track vectors, in parts of the others': few playlists, low",
    )


class Seq2SeqConfig(TrainedConfig):
    """The sequence-to-sequence autoencoder (Papreja et al. 2019)."""

    name: Literal["seq2seq"] = "seq2seq"
    cell: Literal["gru", "lstm"] = Field("gru", description="recurrent cell")
    bidirectional: bool = Field(False, description="read from both ends, half the width each")
    attention: bool = Field(False, description="the decoder looks at every state of the encoder")
    reverse: bool = Field(False, description="read the playlist backwards")
    negatives: int = Field(512, ge=1, description="negatives of a step's sampled softmax")


class Word2VecConfig(Config):
    """Mean of word2vec track vectors."""

    name: Literal["word2vec"] = "word2vec"
    epochs: int = Field(30, ge=1, description="passes over the training playlists")
    window: int = Field(10, ge=1, description="tracks to either side that a track predicts")


class SIFConfig(Word2VecConfig):
    """Mean of word2vec vectors weighted by rarity, their first component removed (Arora et al. 2017)."""

    name: Literal["sif"] = "sif"  # type: ignore[assignment]
    smoothing: float = Field(1e-3, gt=0, description="a of the weight a / (a + p(track))")


ModelConfig = Annotated[
    PooledConfig | Seq2SeqConfig | Word2VecConfig | SIFConfig, Field(discriminator="name")
]


class PlaylistsConfig(Config):
    """How playlists become vectors."""

    model: ModelConfig = PooledConfig()
    dim: int = Field(128, ge=4, description="width D of playlist and track vectors")
    max_length: int = Field(100, ge=2, description="tracks read at once; longer playlists are windowed")
    order: Literal["sequence", "set"] = Field(
        "sequence", description="whether the order means something; set: shuffled training, no positions"
    )
    holdout: float = Field(0.2, ge=0, lt=1, description="share of playlists kept from training, for probes")
    seed: int = Field(0, ge=0, description="of the held-out draw, weights, masks, batches and dropout")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        heads = getattr(self.model, "heads", 1)
        if self.dim % heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {heads}")
        if getattr(self.model, "bidirectional", False) and self.dim % 2:
            raise ValueError(
                f"dim {self.dim} is odd; a bidirectional encoder gives each direction half of it"
            )
        return self


def playlists_config(overrides: Sequence[str] = ()) -> PlaylistsConfig:
    """Settings from `key=value` overrides of the defaults, such as `model=seq2seq model.cell=lstm`.

    Raises:
        InputError: a key is unknown or a value is of the wrong type.
    """
    tree: dict[str, object] = {}
    apply_overrides(tree, overrides)
    return build_playlists_config(tree, where="the settings")


def build_playlists_config(tree: dict[str, object], where: str) -> PlaylistsConfig:
    """Validate settings given as nested dictionaries; `where` is named in errors.

    Raises:
        InputError: a key is unknown or a value is of the wrong type.
    """
    model = tree.get("model", {})
    named = {"name": model} if isinstance(model, str) else {"name": "pooled", **dict(model)}  # type: ignore[call-overload]
    try:
        return PlaylistsConfig.model_validate({**tree, "model": named})
    except ValidationError as error:
        raise InputError(
            "; ".join(explained(item, where, PlaylistsConfig) for item in error.errors())
        ) from error
