"""Training of Recformer: contrastive pre-training, and fine-tuning in two stages.

Li et al. 2023 (arXiv 2305.13731), section 2.3. Pre-training: the next item against the others of the batch,
and masked tokens of the history. Fine-tuning, stage 1: every epoch begins with all items encoded anew into
the table, against which the histories' vectors are trained; stage 2 goes on from the best epoch and leaves
its table as it is. What differs: single tokens are masked instead of whole words, and each stage has a
learning-rate schedule of its own.

Shapes: `B` histories, `E` items of all of them, `n` blocks, `c` columns, `M` masked tokens, `D` width, `V`
items.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recsys.config import TrainingConfig
from recsys.dataset import Targets
from recsys.models.recformer import Recformer
from recsys.models.transformer import Transformer
from recsys.steps import Step, Steps
from recsys.text.stream import Stream
from recsys.text.tokens import KEY, VALUE
from recsys.training import LOSSES, EncoderTraining

KEPT, REPLACED = 0.1, 0.1
"""Shares of the masked tokens that stay as they are, and that become any other (as in BERT)."""


class FineTuning(EncoderTraining):
    """The next item against the whole table, which is encoded anew at each epoch or frozen."""

    def __init__(
        self,
        model: Recformer,
        steps: Steps,
        validation: Targets | None,
        config: TrainingConfig,
        *,
        frozen_table: bool = False,
        epochs_before: int = 0,
    ) -> None:
        """Wrap a model; arguments as of `EncoderTraining`.

        Args:
            model: the model to train.
            steps: what it reads.
            validation: targets ranked in the full catalogue.
            config: loss, optimizer, schedule and seed.
            frozen_table: leave the table of items as it is: stage 2.
            epochs_before: of stage 1, whose draws are not to be repeated.
        """
        super().__init__(cast(Transformer, model), steps, validation, config)
        self.frozen_table = frozen_table
        self.trained_items: torch.Tensor
        self.register_buffer("trained_items", F.pad(steps.trained_items, (1, 1)), persistent=False)
        self.steps.epoch = lambda: epochs_before + self.current_epoch
        model.encoder.unused_by_summaries().requires_grad_(False)  # processes wait for every gradient

    @property
    def model(self) -> Recformer:
        """The model that is trained."""
        return cast(Recformer, self.encoder)

    def on_fit_start(self) -> None:
        """Settle the precision: the encoder's alone, for cosines divided by tau need more digits."""
        super().on_fit_start()
        self.encoder_bf16, self.bf16 = self.bf16, False

    def on_train_epoch_start(self) -> None:
        """Encode the items, unless the table is frozen."""
        super().on_train_epoch_start()
        if not self.frozen_table:
            self.model.refresh()

    def fill_table(self) -> None:
        """Leave the table as the epoch began with it."""

    def loss(self, step: Step) -> torch.Tensor:
        """Of the histories' vectors against the table."""
        vectors_BD = self.vectors(self.model.stream(*newest_first(step)))
        inputs = (vectors_BD / self.model.temperature, *self.outputs(step.rows_U))
        return LOSSES[self.config.loss](self, inputs, step)

    def outputs(self, rows_U: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(V+2, D) table with rows for PAD and MASK, and (V+2,) biases; or some rows.

        The bias is -inf for these two and for items without a training event: as negatives these would only
        be pushed away from the histories that they come after.
        """
        table_VD = F.pad(self.model.item_vectors, (0, 0, 1, 1))
        bias_V = table_VD.new_zeros(len(table_VD)).masked_fill(~self.trained_items, -torch.inf)
        return (table_VD, bias_V) if rows_U is None else (table_VD[rows_U], bias_V[rows_U])

    def vectors(self, stream: Stream) -> torch.Tensor:
        """(B, D) vectors of length 1."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.encoder_bf16):
            return self.model.vectors(stream)


class PreTraining(FineTuning):
    """The next item against the others of the batch, and masked tokens."""

    def __init__(
        self,
        model: Recformer,
        steps: Steps,
        validation: Targets | None,
        config: TrainingConfig,
        *,
        mask_prob: float,
        mask_weight: float,
    ) -> None:
        """Wrap a model; arguments as of `FineTuning`.

        Args:
            model: the model to train.
            steps: what it reads.
            validation: targets ranked in the full catalogue.
            config: optimizer, schedule and seed.
            mask_prob: share of tokens to predict.
            mask_weight: weight of their loss beside the contrastive one.
        """
        super().__init__(model, steps, validation, config)
        self.mask_prob = mask_prob
        self.mask_weight = mask_weight
        self.head = TokenHead(model.encoder.token_embedding)
        if mask_weight:
            model.encoder.unused_by_summaries().requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        """Tie draws to the epoch's number; the table is encoded for validation alone."""
        EncoderTraining.on_train_epoch_start(self)

    def fill_table(self) -> None:
        """Encode the items, which the weights that are kept then belong to."""
        self.model.refresh()

    def loss(self, step: Step) -> torch.Tensor:
        """Contrastive loss and that of masked tokens, by their weight."""
        stream = self.model.stream(*newest_first(step))
        histories_BD = self.vectors(stream)
        items_BD = self.vectors(self.model.item_stream(step.items(step.targets_T)))
        loss = in_batch_softmax(histories_BD / self.model.temperature, items_BD, step.targets_T)
        return loss + self.mask_weight * self.masked_loss(stream) if self.mask_weight else loss

    def masked_loss(self, stream: Stream) -> torch.Tensor:
        """Mean negative log-likelihood of the tokens that are hidden from the encoder."""
        tokenizer = self.model.tokenizer
        draw_nc = torch.rand(stream.types_nc.shape, device=self.device)
        text_nc = (stream.types_nc == KEY) | (stream.types_nc == VALUE)
        chosen_nc = text_nc & (draw_nc < self.mask_prob)
        share_nc = draw_nc / self.mask_prob  # uniform in [0, 1) where chosen
        other_nc = torch.randint_like(stream.tokens_nc, len(tokenizer))
        shown_nc = torch.where(share_nc < 1 - KEPT, other_nc, stream.tokens_nc)
        shown_nc = shown_nc.masked_fill(share_nc < 1 - KEPT - REPLACED, tokenizer.mask)
        read = stream._replace(tokens_nc=torch.where(chosen_nc, shown_nc, stream.tokens_nc))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.encoder_bf16):
            states_MD = self.model.encoder.states(read)[chosen_nc]
            logits = self.head(states_MD).float()
        summed = F.cross_entropy(logits, stream.tokens_nc[chosen_nc], reduction="sum")
        return summed / max(len(states_MD), 1)


class TokenHead(nn.Module):
    """States to logits over tokens, by the embedding that they came from."""

    def __init__(self, embedding: nn.Embedding) -> None:
        """Tie the output to an embedding."""
        super().__init__()
        self.transform = nn.Linear(embedding.embedding_dim, embedding.embedding_dim)
        self.norm = nn.LayerNorm(embedding.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.tied = [embedding.weight]  # in a list, or it would be stored twice

    def forward(self, states_MD: torch.Tensor) -> torch.Tensor:
        """(M, tokens) logits."""
        transformed_MD = self.norm(F.gelu(self.transform(states_MD)))
        return F.linear(transformed_MD, self.tied[0], self.bias)


def newest_first(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """(E,) items of the histories of a step, each newest first, and how many each (B,) has."""
    inside = step.owner_RL >= 0
    owner_E = step.owner_RL[inside]
    order = torch.argsort(owner_E * step.items_RL.numel() + step.positions_RL[inside])
    return step.items(step.items_RL[inside][order]), torch.bincount(owner_E)


def in_batch_softmax(
    histories_BD: torch.Tensor, items_BD: torch.Tensor, targets_B: torch.Tensor
) -> torch.Tensor:
    """Mean negative log-likelihood of each history's own item among all of the batch.

    An item that is another history's target too is no negative.

    Args:
        histories_BD: vectors of length 1 / tau.
        items_BD: vectors of length 1 of the items that came next.
        targets_B: int64 indices of these.
    """
    own = torch.eye(len(targets_B), dtype=torch.bool, device=targets_B.device)
    again = (targets_B[:, None] == targets_B) & ~own
    scores = (histories_BD @ items_BD.T).masked_fill(again, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
