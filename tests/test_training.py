from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from recsys.config import BERT4RecConfig, SASRecConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.errors import InputError
from recsys.evaluation import score_function
from recsys.history import read_history
from recsys.sequences import Ragged
from recsys.steps import Steps
from recsys.training import Fitted, fit_encoder
from tests.worlds import ring

N_ITEMS = 30
MODEL = BERT4RecConfig(dim=16, layers=1, heads=2, max_length=12, dropout=0.1, attention_dropout=0.1)


def fit(
    folder: Path,
    epochs: int = 4,
    *,
    resume: bool = False,
    seed: int = 0,
    patience: int = 10,
    model: BERT4RecConfig | SASRecConfig = MODEL,
    loss: Literal["full", "sampled", "gbce"] = "full",
    stop_epoch: int | None = None,
) -> Fitted:
    sequences = ring(N_ITEMS, 200)
    ends = sequences.lengths - 1
    validation = Targets(
        np.arange(len(sequences)), sequences.first(ends), sequences.values[sequences.offsets[1:] - 1]
    )
    return fit_encoder(
        model,
        TrainingConfig(
            epochs=epochs,
            batch_size=16,
            loss=loss,
            negatives=12,
            learning_rate=3e-3,
            seed=seed,
            threads=1,
            device="cpu",
            patience=patience,
        ),
        training=sequences.first(ends),
        n_items=N_ITEMS,
        validation=validation,
        checkpoints=folder,
        resume=resume,
        stop_epoch=stop_epoch,
    )


def weights(fitted: Fitted) -> list[torch.Tensor]:
    return list(fitted.encoder.state_dict().values())


def same(left: Fitted, right: Fitted) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


def test_the_planted_ring_is_learned(tmp_path: Path) -> None:
    fitted = fit(tmp_path, epochs=70, patience=70)
    histories = Ragged.of([[item, item + 1, item + 2] for item in range(1, N_ITEMS - 2)])
    best = score_function(fitted.encoder)(histories).argmax(axis=1) + 1
    assert (best == np.arange(4, N_ITEMS + 1)).mean() > 0.85


def test_a_seed_gives_the_same_weights_and_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = fit(tmp_path / "a", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, fit(tmp_path / "b", seed=1))
    assert not same(first, fit(tmp_path / "c", seed=2))


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    seen: dict[int, float] = {}
    sequences = ring(N_ITEMS, 60)
    validation = Targets(
        np.arange(60),
        sequences.first(sequences.lengths - 1),
        np.random.default_rng(0).integers(1, N_ITEMS + 1, 60).astype(np.int32),
    )
    fitted = fit_encoder(
        MODEL,
        TrainingConfig(epochs=30, batch_size=16, learning_rate=1e-2, patience=3, threads=1, device="cpu"),
        training=sequences,
        n_items=N_ITEMS,
        validation=validation,
        checkpoints=tmp_path,
        on_epoch=lambda epoch, metrics: seen.update({epoch: metrics["ndcg@10"]}),
    )
    assert seen[fitted.best_epoch] == max(seen.values())
    assert len(seen) == fitted.best_epoch + 3 < 30  # noise is not learned: patience ran out


def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", epochs=40)
    folder = tmp_path / "killed"
    script = f"from tests.test_training import Path, fit; fit(Path({str(folder)!r}), epochs=40)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    process.stderr.close()
    reached = torch.load(folder / "last.ckpt", weights_only=True)["epoch"] + 1
    assert reached < 40, "it was killed too late to show anything"
    resumed = fit(folder, epochs=40, resume=True)
    assert same(resumed, whole)
    assert resumed.best_epoch == whole.best_epoch


def test_the_moments_of_rows_that_waited_are_resumed_too(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", loss="sampled")
    fit(tmp_path / "parts", loss="sampled", stop_epoch=2)
    assert same(fit(tmp_path / "parts", loss="sampled", resume=True), whole)


def test_sequences_too_short_to_mask_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training sequence has two events"):
        fit_encoder(
            MODEL,
            TrainingConfig(),
            training=Ragged.of([[1], [2], []]),
            n_items=N_ITEMS,
            validation=None,
            checkpoints=tmp_path,
        )


def test_lightnings_global_settings_are_put_back(tmp_path: Path) -> None:
    logger = logging.getLogger("pytorch_lightning")
    logger.setLevel(logging.INFO)
    fit(tmp_path, epochs=1)
    assert logger.level == logging.INFO
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("patience", [1, 100])
def test_resuming_a_finished_training_changes_nothing(tmp_path: Path, patience: int) -> None:
    finished = fit(tmp_path, epochs=12, patience=patience)
    assert same(fit(tmp_path, epochs=12, patience=patience, resume=True), finished)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("bert4rec", "full"),
        ("bert4rec", "sampled"),
        ("sasrec", "full"),
        ("sasrec", "sampled"),
        ("sasrec", "gbce"),
    ],
)
def test_every_loss_teaches_every_model_the_ring(
    tmp_path: Path, name: str, loss: Literal["full", "sampled", "gbce"]
) -> None:
    kind = {"bert4rec": BERT4RecConfig, "sasrec": SASRecConfig}[name]
    model = kind(dim=16, layers=1, heads=2, max_length=12, dropout=0.0)
    fitted = fit(tmp_path, epochs=40, patience=40, model=model, loss=loss)
    sequences = ring(N_ITEMS, 100)
    histories = sequences.first(sequences.lengths - 1)
    scores = score_function(fitted.encoder)(histories)
    scores[histories.rows, histories.values - 1] = -np.inf
    best = scores.argmax(axis=1) + 1
    assert (best == sequences.values[sequences.offsets[1:] - 1]).mean() > 0.9


def test_more_negatives_than_items_are_refused_for_gbce(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training.negatives is 1024, but there are 30 items"):
        fit_encoder(
            MODEL,
            TrainingConfig(loss="gbce"),
            training=ring(N_ITEMS, 20),
            n_items=N_ITEMS,
            validation=None,
            checkpoints=tmp_path,
        )


def test_processes_share_a_step_whole_and_apart() -> None:
    steps = Steps(ring(N_ITEMS, 33), N_ITEMS, MODEL, TrainingConfig(batch_size=10))
    whole = list(steps)
    shares = []
    for rank in (0, 1, 2):
        steps.share = lambda rank=rank: (rank, 3)  # type: ignore[misc]
        shares.append(list(steps))
    for step, *parts in zip(whole, *shares, strict=True):
        targets = torch.cat([part.targets_T for part in parts])
        assert sorted(targets.tolist()) == sorted(step.targets_T.tolist())
        assert {part.asked for part in parts} == {step.asked} == {len(step.targets_T)}
    with pytest.raises(InputError, match=r"a step of \d sequences cannot be shared by 10 processes"):
        steps.check_shares(10)


@pytest.mark.parametrize(
    "settings", [["model=bert4rec"], ["model=sasrec", "training.loss=sampled"]], ids=["cloze", "next item"]
)
def test_two_processes_train_as_one_does(tmp_path: Path, settings: list[str]) -> None:
    """The command line under torchrun, over gloo, against one process on the same global batches."""
    sequences = ring(N_ITEMS, 203)  # odd: the shares of a step are unequal
    log = tmp_path / "log.txt"
    rows = (" ".join(map(str, [row + 1, *sequences[row].tolist()])) for row in range(len(sequences)))
    log.write_text("\n".join(rows))
    config = tmp_path / "ring.yaml"
    config.write_text(
        f"name: ring\ndata: {{path: {log}, format: sequences}}\n"
        "training: {epochs: 4, batch_size: 16, learning_rate: 3.0e-3, precision: fp32, device: cpu}\n"
        f"prepared: {tmp_path / 'prepared'}\ntracking: {{uri: 'sqlite:///{tmp_path / 'mlflow.db'}'}}\n"
    )
    sizes = ["model.dim=16", "model.layers=1", "model.max_length=12", "model.dropout=0.0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "recsys", "prepare", str(config)], check=True, capture_output=True)
    histories = []
    for name, start in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]),
    ):
        command = [*start, "-m", "recsys", "train", str(config), *settings, *sizes]
        done = subprocess.run(
            [sys.executable, *command, f"output={tmp_path / name}", "tracking.report=false"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "bundle" / "manifest.json").exists()
        assert ("2 processes" in done.stdout) == (name == "two")
        histories.append(read_history(tmp_path / name))
    one, two = histories
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert alone == pytest.approx(shared, rel=1e-4)
