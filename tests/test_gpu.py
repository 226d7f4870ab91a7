"""Training on a CUDA device, against the same training on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from recsys.config import BERT4RecConfig, SASRecConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.encoding import encode_histories
from recsys.training import Fitted, fit_encoder
from tests.worlds import ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    # What Lightning and CUDA may say about the machine is not about us.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
N_ITEMS = 300


def fit(
    folder: Path,
    model: BERT4RecConfig | SASRecConfig,
    loss: Literal["full", "sampled", "gbce"],
    device: Literal["cpu", "cuda"],
    precision: Literal["fp32", "bf16"],
) -> tuple[Fitted, list[dict[str, float]]]:
    sequences = ring(N_ITEMS, 200)
    ends = sequences.lengths - 1
    last = sequences.values[sequences.offsets[1:] - 1]
    epochs: list[dict[str, float]] = []
    fitted = fit_encoder(
        model,
        TrainingConfig(
            epochs=3,
            batch_size=50,
            loss=loss,
            negatives=100,
            learning_rate=3e-3,
            device=device,
            precision=precision,
        ),
        training=sequences.first(ends),
        n_items=N_ITEMS,
        validation=Targets(np.arange(len(sequences)), sequences.first(ends), last),
        checkpoints=folder,
        on_epoch=lambda epoch, metrics: epochs.append(metrics),
    )
    return fitted, epochs


@pytest.mark.parametrize("loss", ["full", "sampled", "gbce"])
@pytest.mark.parametrize("kind", [BERT4RecConfig, SASRecConfig])
def test_a_gpu_trains_as_the_cpu_does(
    tmp_path: Path,
    kind: type[BERT4RecConfig | SASRecConfig],
    loss: Literal["full", "sampled", "gbce"],
) -> None:
    model = kind(dim=32, layers=2, heads=2, max_length=16, dropout=0.0)
    _, on_cpu = fit(tmp_path / "cpu", model, loss, "cpu", "fp32")
    tolerances: dict[Literal["fp32", "bf16"], float] = {"fp32": 0.01, "bf16": 0.03}
    for precision, tolerance in tolerances.items():
        fitted, on_gpu = fit(tmp_path / precision, model, loss, "cuda", precision)
        for ours, theirs in zip(on_gpu, on_cpu, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
            assert ours["ndcg@10"] == pytest.approx(theirs["ndcg@10"], abs=0.1)
    again, _ = fit(tmp_path / "again", model, loss, "cuda", "bf16")
    for name, weight in fitted.encoder.state_dict().items():
        assert torch.equal(weight, again.encoder.state_dict()[name]), name


def test_vectors_of_a_gpu_are_those_of_the_cpu(tmp_path: Path) -> None:
    fitted, _ = fit(tmp_path, SASRecConfig(dim=32, max_length=16), "full", "cuda", "bf16")
    histories = ring(N_ITEMS, 40, seed=1)
    expected = encode_histories(fitted.encoder, histories)
    found = encode_histories(fitted.encoder.to("cuda"), histories, "cuda")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
