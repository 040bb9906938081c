"""The activations of any network, taken by forward hooks while it is called."""

from __future__ import annotations

import difflib
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from cmkd.errors import InputError, unknown_name
from cmkd.losses.features.outputs import Outputs

logger = logging.getLogger(__name__)

# Modules whose layers have been warned of; the student is captured anew for its training.
_WARNED: weakref.WeakSet[nn.Module] = weakref.WeakSet()

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Softplus,
)  # fmt: skip


class Capture:
    """Calls a network and returns its logits together with the activations of named layers.

    The hooks are there for the length of a call only: between calls the network is as it was, to be copied,
    saved or exported. Gradients flow through what is captured. A layer that runs several times in one call
    gives its last output.

    An activation that is changed in place later in the same call (by `nn.ReLU(inplace=True)`, by `out += x`)
    is copied before that: the first call in each mode, training and evaluation, copies everything and notes
    what changed, all further calls copy that alone.

    Args:
        network: Any network. `DistributedDataParallel` and compiled networks are called as they are, with
            the hooks on the network inside; but code that is compiled already has no place for hooks, so that
            a network should be compiled only after its last capture, or not at all.
        layers: Names as in `network.named_modules()`. `"layer3"` is the output of that layer,
            `"layer3:input"` its (first) input, and `"layer3:preactivation"` what goes into the activation
            module that its output comes from, or its output if it comes from none; a warning says so, once
            per layer, if that has no negative values and so may have passed through an activation that is no
            module. `"layer3:channels_last"` is `(N, H, W, C)` brought to `(N, C, H, W)`, and may follow or be
            followed by one of the others.
        call: What is called in the network's place, and calls it: something that prepares its input.

    Raises:
        InputError: A layer does not exist; the message has the nearest names.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
        >>> outputs = Capture(network, ["1", "2"])(torch.randn(5, 1, 2, 2))
        >>> outputs.logits.shape, outputs.features["1"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
        >>> torch.equal(outputs.features["1"].relu(), outputs.features["2"])
        True
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], *, call: Callable[..., Tensor] | None = None
    ) -> None:
        if isinstance(network, DataParallel):
            raise InputError("DataParallel calls copies of a network: use DistributedDataParallel instead.")
        if isinstance(layers, str):
            raise InputError(f"layers is {layers!r}: give a list of names.")
        self.network = network
        self._call = call or network
        self.layers = tuple(dict.fromkeys(layers))
        inner = _inner(network)
        self._name = type(inner).__name__
        places = {layer: _find(inner, layer) for layer in self.layers}
        self._places = {layer: (module, kind) for layer, (module, kind, _) in places.items()}
        self._channels_last = {layer for layer, (*_, is_last) in places.items() if is_last}
        self._copied: dict[bool, set[str]] = {}
        self._ends: dict[str, nn.Module | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        """Call the network.

        Returns:
            Its logits, and the activations by name in the order of `layers`.

        Raises:
            InputError: A layer was not called or gave something other than a tensor, or the network did.
        """
        call = _Call(self._copied.get(self.network.training), self._ends)
        handles: list[RemovableHandle] = []
        try:
            for layer, (module, kind) in self._places.items():
                handles += call.watch(layer, module, kind)
            logits = self._call(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{self._name} returned a {type(logits).__name__}: wrap it so that it returns logits alone."
            )
        missing = [layer for layer in self.layers if layer not in call.features]
        if missing:
            raise InputError(
                f"layers {missing} of {self._name} were not called: name others, and leave out torch.compile."
            )
        self._note(call.changed())
        self._warn(call.activated)
        return Outputs(logits, {layer: self._as_named(layer, call.features[layer]) for layer in self.layers})

    def _as_named(self, layer: str, x: Tensor) -> Tensor:
        if layer not in self._channels_last:
            return x
        if x.ndim != 4:
            raise InputError(
                f"layer {layer!r} of {self._name} gave shape {tuple(x.shape)}, not (N, H, W, C): leave "
                "':channels_last' out."
            )
        return x.movedim(-1, 1)

    def _warn(self, layers: list[str]) -> None:
        for layer in layers:
            module, _ = self._places[layer]
            if module not in _WARNED:
                _WARNED.add(module)
                logger.warning(
                    "layer %r of %s ends with no activation module, and its output has no negative values: "
                    "if it has passed through F.relu or the like, name the layer before that",
                    layer,
                    self._name,
                )

    def _note(self, changed: set[str]) -> None:
        known = self._copied.setdefault(self.network.training, changed)
        if new := changed - known:
            known |= new
            raise InputError(
                f"layers {sorted(new)} of {self._name} were changed in place after they were captured, which "
                "they were not in earlier calls; call it again, they are copied now."
            )


class _Call:
    """What is seen during one call: `copied` names the activations to copy, None for all."""

    def __init__(self, copied: set[str] | None, ends: dict[str, nn.Module | None]) -> None:
        self.features: dict[str, Tensor] = {}
        self._copied = copied
        self._ends = ends
        self.activated: list[str] = []
        self._seen: dict[str, tuple[Tensor, int]] = {}

    def changed(self) -> set[str]:
        """Return the layers whose activations were written to after they were seen."""
        return {layer for layer, (x, version) in self._seen.items() if x._version != version}

    def watch(self, layer: str, module: nn.Module, kind: str) -> list[RemovableHandle]:
        if kind == "input":
            return [
                module.register_forward_pre_hook(
                    lambda _, inputs: self._keep(layer, next(iter(inputs), None))
                )
            ]
        if kind == "output":
            return [module.register_forward_hook(lambda _, inputs, output: self._keep(layer, output))]
        return self._watch_preactivation(layer, module)

    def _keep(self, layer: str, x: object) -> None:
        if not isinstance(x, Tensor):
            raise InputError(f"layer {layer!r} gave a {type(x).__name__}, not a tensor: name another layer.")
        copies = self._copied is None or layer in self._copied or x.is_inference()
        if not x.is_inference():
            self._seen[layer] = (x, x._version)
        self.features[layer] = x.clone() if copies else x

    def _watch_preactivation(self, layer: str, module: nn.Module) -> list[RemovableHandle]:
        """Remember the input of every activation until the layer ends with one's output."""
        known = layer in self._ends
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, object] = {}

        def enter(activation: nn.Module, given: tuple[Tensor, ...]) -> None:
            # An activation that works in place leaves nothing of its input.
            inplace = getattr(activation, "inplace", False)
            inputs[activation] = given[0].clone() if inplace else given[0]

        def leave(activation: nn.Module, _: object, output: object) -> None:
            outputs[activation] = output

        def end(_: nn.Module, __: object, output: Tensor) -> None:
            if not known:
                self._ends[layer] = next((part for part in outputs if outputs[part] is output), None)
                if self._ends[layer] is None and isinstance(output, Tensor) and bool((output >= 0).all()):
                    self.activated.append(layer)
            activation = self._ends[layer]
            self._keep(layer, output if activation is None else inputs[activation])

        if known:
            activations = [part for part in (self._ends[layer],) if part is not None]
        else:
            activations = [part for part in module.modules() if isinstance(part, _ACTIVATIONS)]
        handles = [handle for part in activations for handle in _both(part, enter, leave)]
        return [*handles, module.register_forward_hook(end)]


def _both(part: nn.Module, enter: Callable, leave: Callable) -> list[RemovableHandle]:
    return [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]


def _inner(network: nn.Module) -> nn.Module:
    """Return the network inside its wrappers."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(original := getattr(network, "_orig_mod", None), nn.Module):
            network = original
        else:
            return network


def _find(network: nn.Module, layer: str) -> tuple[nn.Module, str, bool]:
    """Return a module, which of its tensors is meant, and whether the channels of that come last."""
    name, *said = layer.split(":")
    kinds = [kind for kind in said if kind != "channels_last"]
    modules = dict(network.named_modules())
    del modules[""]
    if name not in modules:
        near = difflib.get_close_matches(name.lower(), [known.lower() for known in modules], n=1, cutoff=0.5)
        # A deep network has hundreds of layers: without a near name, those at the top say enough.
        known = modules if near else [known for known in modules if "." not in known]
        raise unknown_name(f"layer of {type(network).__name__}", name, known, hint="See named_modules().")
    if kinds not in ([], ["input"], ["preactivation"]) or len(said) - len(kinds) > 1:
        raise InputError(
            f"layer {layer!r} ends in {':'.join(said)!r}: take {name!r}, '{name}:input' or "
            f"'{name}:preactivation', each with ':channels_last' behind it where that is so."
        )
    return modules[name], kinds[0] if kinds else "output", len(kinds) < len(said)
