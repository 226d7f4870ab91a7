"""What encodes a history fastest: eager PyTorch, AOTInductor, ONNX Runtime, ONNX Runtime in int8.

    python -m tests.benchmarks.serving_engines BUNDLE [--rounds 200]

Milliseconds of one history, and a history of 8 and of 64 together, of a third, two thirds and all of the
longest history, medians of alternating rounds; and the share of top-10 places (of 500 histories of random
popular items) at which an engine answers as eager PyTorch does. One thread, as the endpoint computes.
Install the extra `onnx` first; AOTInductor needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.encoding import item_vectors
from recsys.engines import export_onnx, exported
from recsys.models.transformer import Transformer
from recsys.search import ExactIndex

Encode = Callable[[NDArray[np.int64]], NDArray[np.float32]]
ROWS = (1, 8, 64)
CHECKED = 500


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--engines", default="export,onnx,int8", help="beside eager PyTorch")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bundle = Bundle.load(asked.bundle)
    model = cast(Transformer, bundle.model)
    rng = np.random.default_rng(0)
    counts = np.asarray(bundle.items["count"], dtype=float) + 1
    items = rng.choice(len(counts), size=(CHECKED, model.max_history), p=counts / counts.sum()) + 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engines = {"eager": eager(model)}
        makers = {"export": compiled, "onnx": onnx, "int8": int8}
        for name in asked.engines.split(","):
            started = time.perf_counter()
            engines[name] = makers[name](model, Path(folder))
            print(f"{name} was made in {time.perf_counter() - started:.0f} s", flush=True)
    agreement(engines, items, ExactIndex(item_vectors(model)))
    for share in (1 / 3, 2 / 3, 1):
        length = int(model.max_history * share) // 8 * 8
        for rows in ROWS:
            times = timed(engines, items[:rows, -length:], asked.rounds)
            shown = "  ".join(f"{name} {each:7.3f} ms" for name, each in times.items())
            print(f"{rows:3} histories of {length:3}: {shown}", flush=True)


def timed(engines: dict[str, Encode], items: NDArray[np.int64], rounds: int) -> dict[str, float]:
    """Median milliseconds of each engine, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, encode in engines.items():
            start = time.perf_counter()
            encode(items)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def agreement(engines: dict[str, Encode], items: NDArray[np.int64], index: ExactIndex) -> None:
    """Print the share of equal places in the top 10."""
    # Histories of every length, as the recommender cuts and pads them.
    lengths = np.arange(len(items)) % items.shape[1] + 1
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in engines}
    for row, length in zip(items, lengths, strict=True):
        width = min(-(-length // 8) * 8, items.shape[1])
        padded = np.zeros((1, width), dtype=np.int64)
        padded[0, width - length :] = row[-length:]
        for name, encode in engines.items():
            vectors[name].append(encode(padded)[0])
    tops = {name: index.search(np.stack(each), 10)[0] for name, each in vectors.items()}
    for name, top in tops.items():
        print(f"{name}: the same item at {(top == tops['eager']).mean():.2%} of the places")


def eager(model: Transformer) -> Encode:
    """What the recommender does without further ado."""

    def encode(items: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model.encode(torch.from_numpy(items)).numpy()

    return encode


def compiled(model: Transformer, folder: Path) -> Encode:
    """torch.export and AOTInductor: one shared library."""
    package = torch._inductor.aoti_compile_and_package(
        exported(model), package_path=str(folder / "encoder.pt2")
    )
    run = torch._inductor.aoti_load_package(package)

    def encode(items: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return cast(torch.Tensor, run(torch.from_numpy(items))).numpy()

    return encode


def onnx(model: Transformer, folder: Path) -> Encode:
    """ONNX Runtime in float32."""
    file = folder / "encoder.onnx"
    if not file.exists():
        export_onnx(model, file)
    return _session(file)


def int8(model: Transformer, folder: Path) -> Encode:
    """ONNX Runtime with dynamically quantised matrix products."""
    from onnxruntime.quantization import quantize_dynamic

    onnx(model, folder)
    quantize_dynamic(folder / "encoder.onnx", folder / "int8.onnx", op_types_to_quantize=["MatMul", "Gemm"])
    return _session(folder / "int8.onnx")


def _session(file: Path) -> Encode:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda items: cast("NDArray[np.float32]", session.run(None, {name: items})[0])


if __name__ == "__main__":
    main()
