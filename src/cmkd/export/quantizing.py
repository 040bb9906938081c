"""8-bit integer arithmetic for a network in ONNX, by ONNX Runtime's quantiser."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.export.formats import set_onnx_card
from cmkd.libraries import require


def quantize(content: bytes, card: Card, calibration: Sequence[Tensor] | None) -> bytes:
    """Return a network whose weights, and with that its arithmetic, are 8-bit integers.

    With images, the ranges of the activations are measured once (static quantisation): a network of
    convolutions gets smaller and, on processors that multiply 8-bit numbers, faster. Weights have a scale for
    each output channel and 7 of the 8 bits, without which processors before AVX512-VNNI overflow.

    Args:
        content: The network in ONNX.
        card: What is known of it.
        calibration: Batches of grey levels, float32 `(B, 3, H, W)`; None has the ranges measured anew for
            every image (dynamic quantisation), which is slower.

    Returns:
        The quantised network in ONNX.

    Raises:
        InputError: The quantiser fails, or its library is missing.
    """
    onnx, tool = require("onnx", "export"), require("onnxruntime.quantization", "export")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (str(Path(folder) / f"{name}.onnx") for name in ("a", "b", "c"))
        Path(source).write_bytes(content)
        try:
            with _quiet():
                # Batch norm goes into the convolutions, where it can be quantised.
                quant_pre_process(source, prepared, skip_symbolic_shape=True)
                model = onnx.load(prepared)
                if calibration is None:
                    del model.graph.value_info[:]  # the shapes of weights that it is about to transpose
                    # There are kernels for 8-bit convolutions only with unsigned weights.
                    tool.quantize_dynamic(model, result, weight_type=tool.QuantType.QUInt8)
                else:
                    tool.quantize_static(
                        model,
                        result,
                        _reader(tool, model.graph.input[0].name, calibration, card),
                        quant_format=tool.QuantFormat.QDQ,
                        activation_type=tool.QuantType.QUInt8,
                        weight_type=tool.QuantType.QInt8,
                        per_channel=True,
                        reduce_range=True,
                    )
        except Exception as error:  # the quantiser raises anything
            line = next(iter(str(error).strip().splitlines()), "")
            raise InputError(
                f"network {card.network} cannot be quantised: {type(error).__name__}: {line} "
                "Leave --quantize out."
            ) from error
        quantized = onnx.load(result)
    set_onnx_card(quantized, card)
    return quantized.SerializeToString()


def _reader(tool: Any, name: str, batches: Sequence[Tensor], card: Card) -> Any:
    """Return what the quantiser reads the batches by."""
    inputs: Iterator[dict[str, np.ndarray]] = ({name: card.to_input(batch).numpy()} for batch in batches)

    class Reader(tool.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next batch."""
            return next(inputs, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser from recommending what has been done."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
