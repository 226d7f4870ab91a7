"""The steps of a training epoch: sequences drawn, examples made, packed into rows and cut for each process.

Everything here is numpy on whole batches; a step's arrays are a function of the seed, the epoch and the step,
never of the number of processes.

Shapes: `B` sequences of a step, `R` rows, `L` columns, `T` places that are asked, `Q` of a row at most, `n`
negatives, `V` items, `U` rows of the item embedding that a step uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.batching import Packed, number_of_batches, shuffled_batches, windows
from recsys.config import EncoderConfig, TrainingConfig
from recsys.errors import InputError
from recsys.models.popularity import item_counts
from recsys.objectives import OBJECTIVES, Examples
from recsys.schema import PAD
from recsys.sequences import Ragged


class Step(NamedTuple):
    """What one process reads in one step.

    With negatives, items are numbers of rows in `rows_U`: what is computed, and what the optimizer then
    changes, follows the items of the step, not those of the catalogue.

    Attributes:
        items_RL: int64 item indices, MASK at the hidden places, PAD where no sequence stands.
        positions_RL: int64 distance from the end of the sequence.
        owner_RL: int64 sequence of the step that a column belongs to; -1 at padding.
        causal_RL: bool, columns that see only themselves and what came before.
        asking_RQ: int64 columns of each row that are asked, filled up to equal numbers.
        places_T: int64 row * Q + number of the places that are asked, filled up to a multiple of 32.
        targets_T: int64 item indices, the answers there.
        negatives_n: int64 item indices that all processes share; empty for the full softmax.
        asked: sum of the weights of the places asked in the whole step, of all processes; where all weigh 1
            their number.
        rows_U: int64 rows of the item embedding that any process uses in the step, rising, PAD and MASK among
            them; None for the full softmax, where items are rows of the whole.
        weights_T: float32 weights of these places; None where all weigh 1.
    """

    items_RL: torch.Tensor
    positions_RL: torch.Tensor
    owner_RL: torch.Tensor
    causal_RL: torch.Tensor
    asking_RQ: torch.Tensor
    places_T: torch.Tensor
    targets_T: torch.Tensor
    negatives_n: torch.Tensor
    asked: float
    rows_U: torch.Tensor | None
    weights_T: torch.Tensor | None

    @classmethod
    def of(
        cls,
        examples: Examples,
        negatives: NDArray[np.int64],
        asked: float,
        rows: NDArray[np.int64] | None = None,
    ) -> Step:
        """Pack examples into rows."""

        def numbers(items: NDArray[np.integer]) -> NDArray[np.int64]:
            return items.astype(np.int64) if rows is None else np.searchsorted(rows, items)

        packed = Packed.rows(examples.read.lengths)
        asking, places = packed.asking(examples.asked)
        return cls(
            torch.from_numpy(packed.spread(numbers(examples.read.values))),
            torch.from_numpy(packed.positions(examples.ahead)),
            torch.from_numpy(packed.owners()),
            torch.from_numpy(packed.marked(examples.causal)),
            torch.from_numpy(asking),
            torch.from_numpy(places),
            torch.from_numpy(numbers(examples.answers[examples.asked])),
            torch.from_numpy(numbers(negatives)),
            asked,
            None if rows is None else torch.from_numpy(rows),
            None if examples.weights is None else torch.from_numpy(examples.weights[examples.asked]),
        )

    def items(self, numbers: torch.Tensor) -> torch.Tensor:
        """Item indices of what a step counts in, whichever that is."""
        return numbers if self.rows_U is None else self.rows_U[numbers]

    @property
    def own(self) -> float:
        """Sum of the weights of the places of this process."""
        return len(self.targets_T) if self.weights_T is None else float(self.weights_T.sum())


class Negatives:
    """Draws the negatives of a step, each item as its training count to a power."""

    def __init__(self, training: Ragged, n_items: int, config: TrainingConfig) -> None:
        """Count the items.

        Args:
            training: training sequences.
            n_items: number of items V.
            config: loss, number and power; gBCE draws uniformly, the full softmax nothing.
        """
        self.number = 0 if config.loss == "full" else config.negatives
        power = config.negative_power if config.loss == "sampled" else 0.0
        counts = np.bincount(training.values, minlength=n_items + 1)[1:].astype(np.float64)
        weights = np.maximum(counts, 1.0) ** power  # an item without events can still be drawn
        self._cumulative = np.cumsum(weights) / weights.sum()
        log_chance = np.log(weights / weights.sum())
        self.log_chance = torch.from_numpy(np.pad(log_chance, 1).astype(np.float32))
        """(V+2,) log of the chance of each row of the item embedding; 0 for PAD and MASK, never drawn."""

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) item indices, with replacement."""
        places = np.searchsorted(self._cumulative, rng.random(self.number), side="right")
        return np.minimum(places, len(self._cumulative) - 1) + 1


class Steps:
    """The steps of an epoch, a function of the seed and the epoch's number alone.

    A resumed run therefore sees exactly what the interrupted one would have seen.
    """

    def __init__(self, training: Ragged, n_items: int, model: EncoderConfig, config: TrainingConfig) -> None:
        """Cut the training sequences into windows.

        Args:
            training: S ragged rows of training events; what comes after the last that weighs more than 0, and
                windows without one that follows another event, teach nothing and are left out.
            n_items: number of items V.
            model: decides the objective and the length of windows.
            config: batch size, negatives and seed.

        Raises:
            InputError: no training sequence has two events, or an event that counts as a target after
                another, or gBCE has more negatives than items to draw.
        """
        self.objective = OBJECTIVES[model.name]
        cut = windows(training.up_to_counted(), model.max_length + self.objective.unread)
        self.windows = _with_targets(cut)
        if not len(self.windows) and training.weights is not None:
            raise InputError(
                "no training event that follows another weighs more than 0, so there is nothing to predict; "
                "give more types a weight in training.event_weights"
            )
        if not len(self.windows):
            raise InputError(
                "no training sequence has two events, so there is nothing to predict; prepare longer "
                "sequences, or train a model that counts (model=popularity)"
            )
        if config.loss == "gbce" and config.negatives >= n_items:
            raise InputError(
                f"training.negatives is {config.negatives}, but there are {n_items} items; gBCE needs fewer "
                "negatives than other items: set it lower, or training.loss to full"
            )
        self.negatives = Negatives(training, n_items, config)
        self.trained_items = torch.from_numpy(item_counts(training.values, n_items) > 0)  # (V,)
        self.model = model
        self.config = config
        self.mask = n_items + 1
        self.epoch: Callable[[], int] = lambda: 0
        self.share: Callable[[], tuple[int, int]] = lambda: (0, 1)
        """Rank of this process and number of processes; each takes every so many-th sequence of a step."""

    def check_shares(self, processes: int) -> None:
        """Refuse processes that would have nothing to do in a step.

        Raises:
            InputError: the smallest step has fewer sequences than there are processes.
        """
        smallest = len(self.windows) // len(self)
        if smallest < processes:
            raise InputError(
                f"a step of {smallest} sequences cannot be shared by {processes} processes; set "
                f"training.batch_size to {processes} or more, or start fewer processes"
            )

    def __len__(self) -> int:
        """Steps of an epoch."""
        return number_of_batches(len(self.windows), self.config.batch_size)

    def __iter__(self) -> Iterator[Step]:
        rank, processes = self.share()
        rng = np.random.default_rng([self.config.seed, self.epoch()])
        for chosen in shuffled_batches(len(self.windows), self.config.batch_size, rng):
            examples = self.objective.make(self.windows.take(chosen), self.model, self.mask, rng)
            own = examples.take(np.arange(rank, len(chosen), processes)) if processes > 1 else examples
            negatives = self.negatives.draw(rng)
            rows = None if self.config.loss == "full" else self._rows(examples, negatives)
            yield Step.of(own, negatives, examples.weight, rows)

    def _rows(self, examples: Examples, negatives: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the item embedding that a step uses, of all processes: their gradients are then added."""
        answers = examples.answers[examples.asked]
        return np.unique(np.concatenate([[PAD, self.mask], examples.read.values, answers, negatives]))


def _with_targets(windows: Ragged) -> Ragged:
    """The windows in which an event that weighs more than 0 follows another one."""
    if windows.weights is None:
        return windows
    counted = windows.counted
    counted[windows.offsets[:-1]] = False  # no window is empty
    return windows.take(np.unique(windows.rows[counted]))
