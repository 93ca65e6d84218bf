"""A pass of inductor: products with the same inputs become one operator of several weights.

What a compiled model calls for a weight is `bitplan::linear`. Those of Triton's kernels that have
one tensor for inputs are joined here to `bitplan::packed_linears`, which launches once where that
fits the tokens that it is given (see `together`), and one by one where it does not.
"""

import operator
from typing import Any

import torch
from torch import fx
from torch._inductor import config, custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

from bitplan.kernels.gpu.grids import all_beside
from bitplan.schema import Scheme


class Join(CustomGraphPass):
    """See above."""

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        families: dict[Any, list[fx.Node]] = {}
        for node in graph.find_nodes(op="call_function", target=torch.ops.bitplan.linear.default):
            if _is_packed(node):
                families.setdefault(node.args[0], []).append(node)
        for nodes in families.values():
            if len(nodes) > 1:
                _join(graph, nodes)

    def uuid(self) -> Any:
        """What cached graphs are known by."""
        return get_hash_for_files((__file__,))


def install() -> None:
    """Have inductor run the pass, after those that there are."""
    present = config.post_grad_custom_pre_pass
    if present is None:
        config.post_grad_custom_pre_pass = Join()
    # Where inductor takes only one pass, it is left to the one that is there.
    elif hasattr(custom_graph_pass, "get_custom_graph_passes"):
        passes = custom_graph_pass.get_custom_graph_passes(present)
        if not any(isinstance(one, Join) for one in passes):
            config.post_grad_custom_pre_pass = [*passes, Join()]


def _is_packed(node: fx.Node) -> bool:
    """Whether it is a product of Triton's kernels, of a weight that is there from the start."""
    arguments: Any = node.args
    _, held, names, _, kernel, _ = arguments
    is_there = all(tensor.op in ("placeholder", "get_attr") for tensor in held)
    return kernel == "triton" and "grid" in names.split(",") and is_there


def _join(graph: fx.Graph, nodes: list[fx.Node]) -> None:
    """Put one operator in place of the first, and its results in place of all."""
    codes, grids, beside, schemes = [], [], [], []
    for node in nodes:
        given: Any = node.args
        named = dict(zip(given[2].split(","), given[1], strict=True))
        scheme = Scheme.parse(given[3])
        codes.append(named["codes"])
        grids.append(named["grid"])
        beside += [named[name] for name in all_beside(scheme)]
        schemes.append(str(scheme))
    arguments = (nodes[0].args[0], codes, grids, beside, ",".join(schemes))
    with graph.inserting_before(nodes[0]):
        joined = graph.call_function(torch.ops.bitplan.packed_linears.default, arguments)
        joined.meta["val"] = [node.meta["val"] for node in nodes]
        products = [
            graph.call_function(operator.getitem, (joined, number)) for number in range(len(nodes))
        ]
    for node, product in zip(nodes, products, strict=True):
        product.meta.update(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
