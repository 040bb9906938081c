"""Folding batch norm into the convolutions before it, for networks that are not trained any more.

In eval mode batch norm multiplies every channel by a number and adds another. A convolution can do both: its
weights take the factor and its bias the rest, and a pass over the activations is saved.
"""

from __future__ import annotations

import copy
import inspect
import logging
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

#: Largest difference of the logits, relative to the largest logit, that passes for rounding in float32.
TOLERANCE = 1e-4


def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module | None:
    """Return a network that gives the same answers with fewer batch norms.

    The network is traced: outside of modules without batch norm, its Python code must not branch on what it
    is given. Where it does, and whenever anything else goes wrong, there is no folded network and the debug
    log says why.

    Args:
        network: In eval mode. It stays as it is; modules that need no change serve both networks.
        example: Input on which both have to agree within `TOLERANCE`, in float32.

    Returns:
        The folded network, in eval mode; None if there is nothing to fold or it cannot be done.
    """
    try:
        folded = _folded(network)
        if folded is None:
            return None
        with torch.no_grad():
            expected, found = network(example), folded(example)
        difference = float((found - expected).abs().max() / expected.abs().max())
    except Exception as error:  # somebody's own network may raise anything
        logger.debug("batch norm is not folded: %s: %s", type(error).__name__, error)
        return None
    if not difference <= TOLERANCE:  # nor if it is NaN
        logger.debug("batch norm is not folded: the logits would differ by %.1e of the largest", difference)
        return None
    return folded


class _Tracer(fx.Tracer):
    """Looks into modules that have batch norms, and into no others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = any(isinstance(module, _BatchNorm) for module in m.modules())
        return not inside or super().is_leaf_module(m, module_qualified_name)


def _folded(network: nn.Module) -> fx.GraphModule | None:
    graph = _Tracer().trace(network)
    folded = fx.GraphModule(network, graph)  # the network's modules, in containers of its own
    graph = folded.graph
    for node in graph.find_nodes(op="call_function", target=torch._assert):
        graph.erase_node(node)  # timm's batch norm asks for the shape of what it gets: a second use of it
    graph.eliminate_dead_code()
    calls = Counter(node.target for node in graph.nodes)
    before_folding = len(graph.nodes)
    for node in graph.nodes:
        found = _batch_norm(node, folded)
        if found is None:
            continue
        source, statistics = found
        if source.op != "call_module" or len(source.users) > 1 or calls[source.target] > 1:
            continue  # what it says without this batch norm is needed, too
        conv = folded.get_submodule(str(source.target))
        if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        conv = copy.deepcopy(conv)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, **statistics)
        folded.set_submodule(str(source.target), conv)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    if len(graph.nodes) == before_folding:
        return None
    graph.eliminate_dead_code()  # the numbers of batch norms, fetched for nobody
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded.eval()


def _batch_norm(node: fx.Node, traced: fx.GraphModule) -> tuple[fx.Node, dict[str, Any]] | None:
    """Return what a batch norm is applied to, and its numbers; None if the node is something else."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        if not isinstance(module, _BatchNorm):
            return None
        source, eps = node.args[0], module.eps
        tensors = [module.running_mean, module.running_var, module.weight, module.bias]
    elif node.target is nn.functional.batch_norm:  # called by classes like timm's, which do more
        call = inspect.signature(nn.functional.batch_norm).bind(*node.args, **node.kwargs)
        call.apply_defaults()
        if call.arguments["training"]:
            return None
        source, eps = call.arguments["input"], call.arguments["eps"]
        names = ("running_mean", "running_var", "weight", "bias")
        tensors = [_constant(call.arguments[name], traced) for name in names]
    else:
        return None
    if not isinstance(source, fx.Node) or tensors[0] is None or tensors[1] is None:
        return None
    # In float64, so that the weights are rounded once.
    mean, variance, weight, bias = (None if tensor is None else tensor.double() for tensor in tensors)
    return source, {"bn_rm": mean, "bn_rv": variance, "bn_eps": eps, "bn_w": weight, "bn_b": bias}


def _constant(argument: Any, traced: fx.GraphModule) -> Tensor | None:
    """Return the tensor that a node fetches from the network."""
    return operator.attrgetter(str(argument.target))(traced) if isinstance(argument, fx.Node) else None
