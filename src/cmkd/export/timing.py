"""How long one image takes, by a runtime."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.evaluation.cost import median_and_tenths, passes
from cmkd.export.formats import Format
from cmkd.export.opening import Model, from_bytes

_WARMUP, _RUNS, _SECONDS = 10, 300, 2.0


def latencies(reference: Model, content: bytes, form: Format, image: Tensor) -> dict[str, dict[str, float]]:
    """Time the network in PyTorch and as exported, with one thread and with all.

    Args:
        reference: The network in PyTorch, eager, float32.
        content: The exported file.
        form: Its form; of `safetensors`, PyTorch is the runtime.
        image: Grey levels `(1, 3, H, W)`.

    Returns:
        By runtime and threads, such as `onnxruntime, 1 thread`, as `milliseconds` gives it.
    """
    runtime = {
        "onnx": "ONNX Runtime",
        "torchscript": "TorchScript",
        "exported-program": "exported program",
        "safetensors": None,
    }[form]
    everything, found = torch.get_num_threads(), {}
    try:
        for threads in dict.fromkeys((1, everything)):
            torch.set_num_threads(threads)
            counted = f"{threads} thread{'' if threads == 1 else 's'}"
            found[f"PyTorch, {counted}"] = milliseconds(reference, image)
            if runtime:
                exported = from_bytes(content, form, "", threads=threads)
                found[f"{runtime}, {counted}"] = milliseconds(exported, image)
    finally:
        torch.set_num_threads(everything)
    return found


@torch.inference_mode()
def milliseconds(model: Model, image: Tensor) -> dict[str, float]:
    """Time a network on its input, without what comes before.

    Args:
        model: The network.
        image: Grey levels `(1, 3, H, W)`.

    Returns:
        `median`, `p10` and `p90` in milliseconds of up to 300 passes, after 10 that are not counted.
    """
    entered = model.card.to_input(image)
    times = [1e3 * taken for taken in passes(model.run, entered, _RUNS, _WARMUP, _SECONDS)]
    return dict(zip(("median", "p10", "p90"), median_and_tenths(times), strict=True))
