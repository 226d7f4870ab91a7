"""Settings of PyTorch and Lightning that hold inside a block and are put back after it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

from recsys.processes import Processes


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hush Lightning about hardware, a folder we mean to reuse and itself; undo its global settings."""
    logger = logging.getLogger("pytorch_lightning")
    level, deterministic = logger.level, torch.are_deterministic_algorithms_enabled()
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic)  # the trainer leaves its own choice behind


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and give the caller's random state back after it."""
    devices = [Processes.launched().local_rank] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are done in bfloat16: as asked, and for `auto` where the processor can."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
