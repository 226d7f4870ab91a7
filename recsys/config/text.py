"""Sections about the models that know items by their text."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config.base import Config

Attributes = tuple[str, ...] | None


class SentenceConfig(Config):
    """How the attributes of an item become a sentence of tokens."""

    attributes: Attributes = Field(
        None,
        strict=False,
        description="columns that make the sentence, in order; default: title, then others",
    )
    max_attributes: int = Field(3, ge=1, description="at most so many attributes of an item")
    max_attribute_tokens: int = Field(32, ge=1, description="tokens of a value that are read")
    tokenizer: Literal["wordpiece", "bpe"] = Field(
        "wordpiece", description="trained on the catalogue's texts: WordPiece, lower case, or byte-level BPE"
    )
    vocabulary: int = Field(8000, ge=100, description="tokens that the trained tokenizer has at most")
    unknown_prob: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of items that training shows as the sentence of items without a text",
    )


class RecformerConfig(SentenceConfig):
    """Items as the sentences of their attributes, histories as sentences of these (Li et al. 2023)."""

    name: Literal["recformer"] = "recformer"
    objective: Literal["finetune", "pretrain"] = Field(
        "finetune", description="what `train` does; `recsys pretrain` sets pretrain"
    )
    backbone: str | None = Field(
        None,
        description="start from these weights and their tokenizer: the folder of a recformer bundle, or a "
        "BERT, RoBERTa or Longformer checkpoint, by folder or hub id (extra `text`); sizes are theirs",
    )
    max_length: int = Field(50, ge=2, description="newest items of a history that are read")
    max_tokens: int = Field(512, ge=2, description="tokens of a history that are read, newest items first")
    window: int = Field(64, ge=2, multiple_of=2, description="tokens that a token attends to, half each side")
    dim: int = Field(64, ge=2, description="width D of items and hidden states")
    inner: int = Field(256, ge=1, description="width of the feed-forward layers")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads; must divide `dim`")
    norm_eps: float = Field(1e-12, gt=0, description="added to variances in LayerNorm")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of embeddings and residual branches")
    temperature: float = Field(0.05, gt=0, description="tau: a score is a cosine divided by it")
    mask_prob: float = Field(0.15, gt=0, lt=1, description="pretrain: share of tokens to predict")
    mask_weight: float = Field(0.1, ge=0, description="pretrain: weight of masked-token prediction")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class TextKNNConfig(Config):
    """Cosine of TF-IDF vectors of the texts of an item and of all the history."""

    name: Literal["text_knn"] = "text_knn"
    attributes: Attributes = Field(
        None, strict=False, description="columns that make the text; default: all that can be text"
    )
    half_life: float | None = Field(
        None,
        gt=0,
        strict=False,
        description="events until an item of the history counts half; default: never",
    )


class CategoryPopularityConfig(Config):
    """Popularity within the categories of the history; items without an event by their categories alone."""

    name: Literal["category_popularity"] = "category_popularity"
    attribute: str | None = Field(
        None, description="column of categories, a list or one text; default: the first that recurs"
    )
    separator: str | None = Field(
        None, description="between the categories of a text; default: a comma where any has one, else a space"
    )
