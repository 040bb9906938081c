"""Weights from and to files, without ever executing what a file contains."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.files import at_home, write_atomic

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_STUDENT, _TEACHER = "student.", "teacher."  # mdistiller saves both networks under one roof
_PREFIXES = (*_WRAPPERS, "model.", _STUDENT)  # and Lightning's usual attribute
_CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "network", "weights")
_SHOWN = 3

StrPath = str | os.PathLike[str]


def read_state_dict(path: StrPath) -> dict[str, Tensor]:
    """Read the weights in a checkpoint of somebody's training code.

    Args:
        path: A `.safetensors` file, or any file that `torch.save` wrote. The latter is read with
            `weights_only=True`: tensors, containers, plain numbers (NumPy's included) and the options that
            `argparse` read, never code.

    Returns:
        Tensors on the CPU by name. The dictionary is taken out of what surrounds it (`{"state_dict": ...}`,
        `{"model": ...}`, ...), and a prefix that all names share and that comes from a wrapper (`module.`,
        `model.`, `_orig_mod.`, `student.`) is removed. Where a distiller saved its teacher, too, as
        mdistiller does, these are the student's.

    Raises:
        InputError: If there is no such file, it is no checkpoint, it contains code, or no weights are in it.
    """
    return _without_prefix(_students(_read_all(path)))


def load_weights(
    model: nn.Module, path: StrPath, *, classifier: str | None = None, same_classes: bool = True
) -> bool:
    """Load a checkpoint into a network, all of it or nothing.

    Args:
        model: The network; its parameters and buffers are overwritten in place.
        path: As for `read_state_dict`.
        classifier: Name of a layer that the file may have for other classes, or not at all; the network keeps
            its own then.
        same_classes: Whether it is kept only in these cases; if not, in any.

    Returns:
        Whether that layer was loaded, too.

    Raises:
        InputError: As for `read_state_dict`, or if names or shapes differ from the network's own; then the
            network is unchanged.
    """
    own = model.state_dict()
    prefix = _common_prefix(own, _PREFIXES)
    state = _read_all(path)
    if not _has_teacher(own):
        state = _without_prefix(_students(state))
    state = {prefix + name: tensor for name, tensor in state.items()}
    kept = {} if classifier is None else _of_layer(own, classifier)
    if same_classes and all(name in state and state[name].shape == kept[name].shape for name in kept):
        kept = {}
    state |= kept
    _require_same_names(own, state, path)
    _require_same_shapes(own, state, path)
    model.load_state_dict(state)
    return not kept


def save_weights(model_or_state: nn.Module | Mapping[str, Tensor], path: StrPath) -> None:
    """Write weights as safetensors; the file appears complete or not at all.

    Args:
        model_or_state: A network (the names lose what `torch.compile` and DistributedDataParallel prepend) or
            a dictionary of tensors. Tensors that share memory are written once per name.
        path: The file; what was there is replaced.

    Raises:
        InputError: If the file cannot be written.
    """
    from safetensors.torch import save

    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    prefix = _common_prefix(state, _WRAPPERS)
    # Clones, because the format has neither shared memory nor any layout but the contiguous one.
    plain = {
        name.removeprefix(prefix): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    write_atomic(Path(path), save(plain))


def _read_all(path: StrPath) -> dict[str, Tensor]:
    path = at_home(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    return _without_prefix(_unwrap(_read(path), path))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # RepDistiller's and timm's checkpoints hold their options, a class of attributes and nothing else.
        with torch.serialization.safe_globals([*_numpy_numbers(), argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # whatever arbitrary bytes can make a parser raise
        # torch's own message is not passed on: it recommends to switch the protection off.
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise InputError(
                f"{path} contains code ({code[1]}), which was not run. A checkpoint holds tensors only: "
                "write model.state_dict() instead of the whole object, or convert it to safetensors."
            ) from error
        raise InputError(
            f"{path} is not a checkpoint: neither safetensors nor a complete file written by torch.save from "
            "model.state_dict(). Nothing in it was run."
        ) from error


def _numpy_numbers() -> list[Any]:
    # Training codes store the best accuracy beside the weights as a NumPy scalar; it is data, but pickled as
    # a call of these functions, under one of two names depending on the NumPy version that wrote it.
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    dtypes = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    return [*((scalar, name) for name in names), np.dtype, *dtypes]


def _is_state(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(item, Tensor) for item in value.values())


def _unwrap(content: Any, path: Path) -> Mapping[str, Tensor]:
    if _is_state(content):
        return content
    if not isinstance(content, Mapping):
        raise InputError(f"{path} contains a {type(content).__name__}, not weights by name.")
    for key in _CONTAINERS:
        if _is_state(content.get(key)):
            return content[key]
    candidates = [key for key, value in content.items() if _is_state(value)]
    if len(candidates) == 1:
        return content[candidates[0]]
    raise InputError(
        f"{path} contains no recognisable weights; its entries: {', '.join(map(repr, content)) or 'none'}. "
        f"Expected are tensors by name, alone or under one of {', '.join(_CONTAINERS)}."
    )


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = _common_prefix(state, _PREFIXES)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _has_teacher(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_TEACHER) for name in state)


def _students(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Beside the two networks there may be what a method learns, and it goes with the teacher.
    if not _has_teacher(state):
        return state
    return {name: tensor for name, tensor in state.items() if name.startswith(_STUDENT)} or state


def _common_prefix(names: Mapping[str, Any], candidates: tuple[str, ...]) -> str:
    prefix = ""
    while names:
        step = next((c for c in candidates if all(name.startswith(prefix + c) for name in names)), None)
        if step is None:
            break
        prefix += step
    return prefix


def _of_layer(state: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(f"{layer}.")}


def _require_same_names(own: Mapping[str, Any], state: Mapping[str, Any], path: StrPath) -> None:
    # Batch norm's step counter is younger than many checkpoints, and load_state_dict fills it in.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = sorted(
        state.keys() - own.keys(), key=lambda name: (name.endswith("num_batches_tracked"), name)
    )
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(
            f"the weights in {path} belong to another network: of its {len(state)} names, "
            f"{' and '.join(parts)}. Name the network that was trained."
        )


def _require_same_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: StrPath) -> None:
    different = [name for name in own if name in state and own[name].shape != state[name].shape]
    if different:
        name = different[-1]  # the classifier comes last, and it is the usual culprit
        raise InputError(
            f"{len(different)} tensors in {path} have another shape than the network's: {name} is "
            f"{tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the network. "
            "Check the network's name and its number of classes."
        )
