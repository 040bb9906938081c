"""Opening a run folder or an exported file as a function from grey levels to logits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmkd import models
from cmkd.errors import InputError
from cmkd.export.card import MARK, Card
from cmkd.export.formats import EXTRA_FILE, SUFFIXES, Format
from cmkd.files import at_home
from cmkd.libraries import require
from cmkd.teachers.opening import load_run_network

#: Parts of an exported program that PyTorch would unpickle, or load as a library of machine code.
_REFUSED_PARTS = ("custom_obj", "opaque_obj", "aotinductor")


@dataclass(frozen=True)
class Model:
    """A network that can be asked, whatever it was read from.

    Attributes:
        card: What is known of it.
        run: From its input, as the card says it is, to logits `(N, C)`.
    """

    card: Card
    run: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def __call__(self, levels: Tensor) -> Tensor:
        """Map grey levels, float32 `(N, 3, H, W)` from 0 to 255, to logits `(N, C)`."""
        return self.run(self.card.to_input(levels))


def open_model(path: str | Path) -> Model:
    """Open a network to be asked.

    Args:
        path: Folder of a finished run, or a file that `cmkd export` wrote.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: There is no such thing, it is something else or damaged, or the library that runs it is
            missing.
    """
    path = at_home(path)
    if path.is_dir():
        return open_run(path)[0]
    form = next((form for form, suffix in SUFFIXES.items() if path.suffix == suffix), None)
    if form is None:
        raise InputError(
            f"{path} is neither a run folder nor a file of a form that `cmkd export` writes "
            f"({', '.join(SUFFIXES.values())})."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {os.strerror(error.errno or 0)}.") from None
    return from_bytes(content, form, str(path))


def open_run(run: Path) -> tuple[Model, nn.Module]:
    """Return the network of a finished run, to be asked and as it is."""
    card = Card.of_run(run)
    network, _ = load_run_network(run)
    return Model(card, network), network


def from_bytes(content: bytes, form: Format, where: str, *, threads: int = 0) -> Model:
    """Open the content of an exported file.

    Args:
        content: The file's bytes.
        form: Its form.
        where: Its name, for messages.
        threads: Threads for ONNX Runtime, 0 for all cores; PyTorch's are set elsewhere.

    Raises:
        InputError: As `open_model`.
    """
    try:
        if form == "onnx":
            return _onnx(content, where, threads)
        if form == "safetensors":
            return _safetensors(content, where)
        with _silent():
            return (_torchscript if form == "torchscript" else _exported_program)(content, where)
    except InputError:
        raise
    except Exception as error:  # whatever arbitrary bytes can make a parser raise
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"{where} is damaged, or was not written by `cmkd export` in the form {form}: "
            f"{type(error).__name__}: {line}"
        ) from error


def _onnx(content: bytes, where: str, threads: int) -> Model:
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it has opinions on every graph
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    card = Card.from_text(session.get_modelmeta().custom_metadata_map.get(MARK, ""), where)
    name = session.get_inputs()[0].name
    return Model(card, lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0]))


def _torchscript(content: bytes, where: str) -> Model:
    extra: dict[str, Any] = {EXTRA_FILE: ""}
    module = torch.jit.load(io.BytesIO(content), map_location="cpu", _extra_files=extra)
    return Model(Card.from_text(_text(extra[EXTRA_FILE]), where), module)


def _safetensors(content: bytes, where: str) -> Model:
    from safetensors.torch import load

    state = load(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    card = Card.from_text(header.get(MARK, ""), where)
    network = models.build(card.network, len(card.classes))
    network.load_state_dict(state)
    return Model(card, network.eval())


def _exported_program(content: bytes, where: str) -> Model:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        card = Card.from_text(_text(_member(archive, names, EXTRA_FILE)), where)
    refused = [name for name in names if any(part in name for part in _REFUSED_PARTS)]
    if refused:
        raise InputError(f"{where} contains code ({refused[0]}), which was not run; export the run again.")
    with _tensors_only():
        program = torch.export.load(io.BytesIO(content))
    return Model(card, program.module())


def _member(archive: zipfile.ZipFile, names: list[str], ending: str) -> bytes:
    return next((archive.read(name) for name in names if name.endswith(f"/{ending}")), b"")


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let `torch.export.load` read tensors, and nothing that has to be unpickled otherwise."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop PyTorch's warning that TorchScript is no longer developed: the documentation says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
