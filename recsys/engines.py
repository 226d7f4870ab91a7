"""What computes an encoder's vectors on a CPU: PyTorch as it is (`eager`), or ONNX Runtime (`onnx`).

ONNX Runtime takes less than half of the time for a single history, and computes a row alone as among
others, so that nothing needs to be filled up. The model is exported to it in a process of its own when it is
loaded: that takes some seconds, in which the process that serves goes on.

Shapes: `B` sequences, `L` positions, `D` width, `V` items.
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from recsys.bundle import Bundle
from recsys.encoding import one_thread
from recsys.errors import InputError
from recsys.models.protocol import Encoder

Engine = Literal["eager", "onnx"]

CHECKED = 16  # histories that must have the same vectors before an exported encoder is used
TOLERANCE = 1e-3  # of the greatest number in a vector
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class OnnxEncoder:
    """An encoder whose vectors ONNX Runtime computes, with one thread."""

    row_step = 1
    """Rows are computed alike whatever their number."""

    def __init__(self, model: Encoder, file: Path) -> None:
        """Take an encoder and what it was exported to; the file may go afterwards."""
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._model = model

    @property
    def max_history(self) -> int:
        """Newest items of a history that it reads."""
        return self._model.max_history

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors of histories."""
        (vectors_BD,) = self._session.run(None, {self._input: items_BL.numpy()})
        return torch.from_numpy(vectors_BD)

    def item_table(self) -> torch.Tensor:
        """(V, D) vectors of the items."""
        return self._model.item_table()


def onnx_encoder(bundle: Bundle) -> OnnxEncoder:
    """The encoder of a bundle in ONNX Runtime, exported from the bundle's folder and compared with PyTorch.

    Raises:
        InputError: the extra `onnx` is not installed, the model cannot be exported, or its vectors differ.
    """
    assert isinstance(bundle.model, Encoder)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"engine `onnx` needs {', '.join(missing)}; install the extra `onnx` "
            "(pip install 'recsys[onnx]'), or take engine `eager`"
        )
    with tempfile.TemporaryDirectory(prefix="recsys-onnx-") as folder:
        file = Path(folder) / "encoder.onnx"
        command = [sys.executable, "-m", "recsys.engines", str(bundle.folder.absolute()), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not file.exists():
            reason = done.stderr.strip().rpartition("\n")[2]
            raise InputError(
                f"the model of {bundle.folder} cannot be exported for engine `onnx` ({reason}); take `eager`"
            )
        encoder = OnnxEncoder(bundle.model, file)
    _check(encoder, bundle)
    return encoder


def _check(encoder: OnnxEncoder, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    longest = encoder.max_history
    items_BL = rng.integers(1, len(bundle.vocabulary) + 1, size=(CHECKED, longest))
    for row, length in enumerate(np.linspace(1, longest, CHECKED).astype(int)):
        items_BL[row, : longest - length] = 0
    with torch.inference_mode(), one_thread():
        expected = bundle.model.encode(torch.from_numpy(items_BL))  # type: ignore[union-attr]
    worst = float((encoder.encode(torch.from_numpy(items_BL)) - expected).abs().max())
    if not worst <= TOLERANCE * float(expected.abs().max()):
        raise InputError(
            f"engine `onnx` gives other vectors for the model of {bundle.folder} (by {worst:g}); take `eager`"
        )


class _Encoding(torch.nn.Module):
    """An encoder with `encode` as its forward pass, which is what exporters take."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 -- an encoder that is a module too
        super().__init__()
        self.model = model

    def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors."""
        vectors_BD: torch.Tensor = self.model.encode(items_BL)
        return vectors_BD


def exported(model: Encoder) -> torch.export.ExportedProgram:
    """The encoder as a program of any number of rows and columns."""
    rows = torch.export.Dim("rows", min=1, max=4096)
    columns = torch.export.Dim("columns", min=2, max=model.max_history)
    example = torch.ones(4, min(16, model.max_history), dtype=torch.int64)
    return torch.export.export(_Encoding(model), (example,), dynamic_shapes=({0: rows, 1: columns},))


def export_onnx(model: Encoder, file: Path) -> None:
    """Write an encoder as an ONNX file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(exported(model), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(file))


if __name__ == "__main__":
    export_onnx(Bundle.load(sys.argv[1]).model, Path(sys.argv[2]))  # type: ignore[arg-type]
