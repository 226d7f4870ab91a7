"""Sections about the model, one for each."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Config
from recsys.config.text import CategoryPopularityConfig, RecformerConfig, SentenceConfig, TextKNNConfig

TEXT_SETTINGS = ("attributes", "backbone", "token_dropout")
"""Settings of a transformer that say nothing where it does not read text."""


class TransformerConfig(SentenceConfig):
    """Sizes that every transformer has."""

    dim: int = Field(64, ge=2, description="width D of items and hidden states")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads; must divide `dim`")
    max_length: int = Field(
        50, ge=2, description="positions N; BERT4Rec's appended [mask] takes one; left open, the data decides"
    )
    dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="dropout of embeddings and residual branches; left open, the data decides",
    )
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights")
    norm: Literal["pre", "post"] = Field(
        "pre", description="LayerNorm before each branch, or (as published for BERT4Rec) after each sum"
    )
    feed_forward: Literal["gelu", "relu"] = Field(
        "gelu", description="its inner layer: 4D with GELU, or (as published for SASRec) D with ReLU"
    )
    scoring: Literal["cosine", "dot"] = Field(
        "cosine", description="cosine divided by `temperature`, or (as published) the inner product"
    )
    temperature: float = Field(0.05, gt=0, description="cosine: scores are divided by it")
    item_encoder: Literal["id", "text", "id+text"] = Field(
        "id", description="what an item is: a vector of its own, or of its text, or the sum of both"
    )
    id_dropout: float = Field(
        0.1, ge=0, lt=1, description="id+text: share of a step's items that show their text alone"
    )
    token_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="text: share of tokens that a step leaves out, so that none is learned by heart",
    )
    backbone: str | None = Field(
        None,
        description="text: features of a pre-trained encoder that is not trained: the folder of a recformer "
        "bundle, or a BERT, RoBERTa or Longformer checkpoint, by folder or hub id (extra `text`); default: "
        "token vectors that are trained with everything else",
    )

    @model_validator(mode="after")
    def _text_is_read(self) -> Self:
        ignored = [name for name in TEXT_SETTINGS if getattr(self, name)]
        if self.item_encoder == "id" and ignored:
            raise ValueError(
                f"{ignored[0]} is of items' texts, which item_encoder `id` does not read; set item_encoder "
                "to text or id+text"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class BERT4RecConfig(TransformerConfig):
    """The cloze-trained bidirectional encoder (Sun et al. 2019)."""

    name: Literal["bert4rec"] = "bert4rec"
    mask_prob: float = Field(0.4, gt=0, lt=1, description="share of items masked in a cloze sample (rho)")
    last_item_prob: float = Field(
        0.2, ge=0, le=1, description="share of cloze samples that mask only the last item"
    )
    next_item_prob: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of training samples that name the item after each, seeing only what came before "
        "(SASRec's task); the others are cloze samples",
    )
    read: Literal["last_item", "mask"] = Field(
        "last_item",
        description="where a history is asked for what comes next: at its last item, seeing what came before "
        "(needs next-item samples), or, as published, at a [mask] behind it, seeing both ways",
    )

    @model_validator(mode="after")
    def _read_as_trained(self) -> Self:
        if self.read == "last_item" and not self.next_item_prob:
            raise ValueError(
                "read `last_item` is trained by next-item samples alone, but next_item_prob is 0; set it, or "
                "read `mask`"
            )
        return self


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


TextCounting = TextKNNConfig | CategoryPopularityConfig
Counting = (
    PopularityConfig | RecentPopularityConfig | MarkovConfig | ItemKNNConfig | ReplayConfig | TextCounting
)
EncoderConfig = BERT4RecConfig | SASRecConfig | RecformerConfig
ModelConfig = Annotated[EncoderConfig | Counting, Field(discriminator="name")]
