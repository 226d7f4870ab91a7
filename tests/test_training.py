from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.config import BERT4RecConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.errors import InputError
from recsys.evaluation import score_function
from recsys.history import read_history
from recsys.sequences import Ragged
from recsys.training import Fitted, fit_encoder
from tests.worlds import ring

N_ITEMS = 30
MODEL = BERT4RecConfig(dim=16, layers=1, heads=2, max_length=12, dropout=0.1, attention_dropout=0.1)


def fit(folder: Path, epochs: int = 4, *, resume: bool = False, seed: int = 0, patience: int = 10) -> Fitted:
    sequences = ring(N_ITEMS, 200)
    ends = sequences.lengths - 1
    validation = Targets(
        np.arange(len(sequences)), sequences.first(ends), sequences.values[sequences.offsets[1:] - 1]
    )
    return fit_encoder(
        MODEL,
        TrainingConfig(
            epochs=epochs,
            batch_size=16,
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


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """The command line under torchrun, over gloo, against one process on the same global batches."""
    sequences = ring(N_ITEMS, 203)  # odd: the shares of a step are unequal
    log = tmp_path / "log.txt"
    log.write_text(
        "".join(f"{row + 1} {' '.join(map(str, sequences[row].tolist()))}\n" for row in range(len(sequences)))
    )
    config = tmp_path / "ring.yaml"
    config.write_text(
        f"name: ring\ndata: {{path: {log}, format: sequences}}\n"
        "model: {dim: 16, layers: 1, max_length: 12, dropout: 0.0}\n"
        "training: {epochs: 4, batch_size: 16, learning_rate: 3.0e-3, precision: fp32, device: cpu}\n"
        f"prepared: {tmp_path / 'prepared'}\ntracking: {{uri: 'sqlite:///{tmp_path / 'mlflow.db'}'}}\n"
    )
    command = ["-m", "recsys", "train", str(config)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    histories = []
    for name, start in (("one", []), ("two", launch)):
        output = tmp_path / name
        subprocess.run(
            [sys.executable, "-m", "recsys", "prepare", str(config)], check=True, capture_output=True
        )
        done = subprocess.run(
            [sys.executable, *start, *command, f"output={output}"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (output / "bundle" / "manifest.json").exists()
        histories.append(read_history(output))
    one, two = histories
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert alone == pytest.approx(shared, rel=1e-4)
