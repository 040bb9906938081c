"""A network as the bytes of a file, in one of four forms."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from cmkd.data.pixels import scale_and_shift
from cmkd.errors import InputError
from cmkd.export.card import MARK, Card
from cmkd.libraries import require

Format = Literal["onnx", "torchscript", "safetensors", "exported-program"]

#: How the name of a file in each form ends.
SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "torchscript": ".pt",
    "safetensors": ".safetensors",
    "exported-program": ".pt2",
}
EXTRA_FILE = f"{MARK}.json"

_REMEDY: dict[Format, str] = {
    "onnx": "Try --format torchscript, which follows one image through the network, or --format safetensors.",
    "torchscript": "Try --format exported-program, or --format safetensors.",
    "safetensors": "",
    "exported-program": "Try --format torchscript, or --format safetensors.",
}
_ON_VALUES = (
    "Its code depends on values that it calculates, which none of these forms can follow: take --format "
    "safetensors."
)
#: From there on, ONNX comes from the exported program by default; before, that fails on batch norm.
_ONNX_BY_PROGRAM = (2, 9)
_OPSET_BEFORE = 17
_INPUT, _OUTPUT, _BATCH = "image", "logits", "batch"


class OnPixels(nn.Module):
    """A network that normalises by itself.

    The input is `(N, 3, H, W)` like that of the network itself and that of torchvision's decoders, so that
    all files have one layout; who has `(N, H, W, 3)` turns the axes, which costs nothing beside decoding.

    Args:
        network: From normalised images to logits.
        mean: Mean of each of 3 channels, for pixels in [0, 1].
        std: Standard deviation likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        scale, shift = scale_and_shift(mean, std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 `(N, 3, H, W)` to logits `(N, C)`."""
        return self.network(pixels.to(torch.float32) * self.scale + self.shift)


def as_bytes(network: nn.Module, card: Card, form: Format) -> bytes:
    """Return a file that holds a network.

    Args:
        network: In eval mode, on the CPU: from normalised images to logits.
        card: What is to be known of it; with `pixels`, normalisation becomes part of the network.
        form: Form of the file.

    Returns:
        Its bytes, the card among them.

    Raises:
        InputError: The network cannot be brought into that form, or a library for it is missing.
    """
    module = OnPixels(network, card.mean, card.std).eval() if card.pixels else network
    size = card.image_size
    # Two images: with one, a tracer takes the batch for a dimension that is always 1.
    example = card.to_input(torch.linspace(0, 255, 2 * 3 * size * size).view(2, 3, size, size))
    write: dict[Format, Callable[[nn.Module, Tensor, Card], bytes]] = {
        "onnx": _onnx,
        "torchscript": _torchscript,
        "safetensors": _safetensors,
        "exported-program": _exported_program,
    }
    try:
        with _quiet(), torch.no_grad():
            return write[form](module, example, card)
    except InputError:
        raise
    except Exception as error:  # the exporters raise anything, and so may somebody's own network
        raise InputError(
            f"network {card.network} cannot be exported as {form}: {_first_line(error)} "
            f"{_ON_VALUES if _branches(error) else _REMEDY[form]}"
        ) from error


def set_onnx_card(model: Any, card: Card) -> None:
    """Write the card into an ONNX model, and take out what the exporter noted of the code's whereabouts."""
    for entry in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        del entry.metadata_props[:]
        entry.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.metadata_props.add(key=MARK, value=card.as_text())


def _onnx(module: nn.Module, example: Tensor, card: Card) -> bytes:
    onnx = require("onnx", "export")
    require("onnxruntime", "export")  # which the result is checked with
    names: dict[str, Any] = {"input_names": [_INPUT], "output_names": [_OUTPUT]}
    if torch.__version__ >= torch.torch_version.TorchVersion(".".join(map(str, _ONNX_BY_PROGRAM))):
        require("onnxscript", "export")
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=({0: _batch()},), verbose=False, **names
        )
        assert program is not None
        model = program.model_proto
    else:
        buffer = io.BytesIO()
        write: Any = torch.onnx.export  # whose types are those of later versions
        names["dynamic_axes"] = {_INPUT: {0: _BATCH}, _OUTPUT: {0: _BATCH}}
        with _nothing_frozen(module, example, card, "onnx"):
            write(module, (example,), buffer, dynamo=False, opset_version=_OPSET_BEFORE, **names)
        model = onnx.load_model_from_string(buffer.getvalue())
    set_onnx_card(model, card)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _torchscript(module: nn.Module, example: Tensor, card: Card) -> bytes:
    with _nothing_frozen(module, example, card, "torchscript"):
        traced = torch.jit.trace(module, (example,))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={EXTRA_FILE: card.as_text()})
    return _without_places(buffer.getvalue())


def _without_places(archive: bytes) -> bytes:
    """Return a TorchScript file without the members that say from which line of which file its code came.

    They have paths of the machine it was made on, and serve the messages of errors alone.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(buffer, "w") as after:
        for member in before.infolist():
            if not member.filename.endswith(".debug_pkl"):
                after.writestr(zipfile.ZipInfo(member.filename), before.read(member))
    return buffer.getvalue()


@contextlib.contextmanager
def _nothing_frozen(module: nn.Module, example: Tensor, card: Card, form: Format) -> Iterator[None]:
    """Refuse a network that reads a number out of a tensor: a trace has that of its example for ever.

    Images on which the branch is the same do not show it. The tracer warns, but as much of a look at a shape,
    which does no harm; the other exporter knows the two apart.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", TracerWarning)
        yield
    if not any(issubclass(each.category, TracerWarning) for each in said):
        return
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=({0: _batch()},), strict=False)
    except Exception as error:  # it has limits of its own, which are not meant here
        frozen = _branches(error)
    else:
        frozen = any(
            str(node.target) in ("aten.item.default", "aten._local_scalar_dense.default")
            for node in program.graph.nodes
        )
    if frozen:
        raise InputError(f"network {card.network} cannot be exported as {form}. {_ON_VALUES}")


def _branches(error: BaseException | None) -> bool:
    """Whether an exporter gave up because of values that are known only when the network runs."""
    while error is not None:
        if "data-dependent" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _safetensors(module: nn.Module, example: Tensor, card: Card) -> bytes:
    from safetensors.torch import save

    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return save(state, metadata={MARK: card.as_text()})


def _exported_program(module: nn.Module, example: Tensor, card: Card) -> bytes:
    program = torch.export.export(module, (example,), dynamic_shapes=({0: _batch()},), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine it was made on
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={EXTRA_FILE: card.as_text()})
    return buffer.getvalue()


def _batch() -> Any:
    return torch.export.Dim(_BATCH, min=1)


def _first_line(error: BaseException) -> str:
    """Return what went wrong at the bottom of it: exporters wrap the reason in advice on themselves."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {line}" + ("" if line.endswith((".", "!", "?")) else ".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from talking: what they warn of is tried out on images afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.ExitStack() as silence:
            for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                silence.enter_context(redirect(io.StringIO()))
            silence.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
