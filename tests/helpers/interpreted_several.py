"""Products with several weights in one launch by Triton's interpreter: for `interpret`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitplan.formats import Packed
from bitplan.kernels import arranged_for, reference_of
from bitplan.kernels.gpu import launch, launch_several
from bitplan.kernels.gpu.operator import beside_of_all, linears
from bitplan.kernels.gpu.shapes import Device
from interpreted import error, weight_of

SEVERAL = "several with "
"""What a name of a scheme follows, where the operator is asked for."""


def several_case(
    weights: list[tuple[str, int]],
    columns: int,
    several: list[int],
    dtype: str = "bfloat16",
    view: str = "whole",
    cuda: bool = True,
) -> dict:
    """What `products` is asked for: the schemes and rows of weights, and the shape of tokens."""
    return {
        "weights": weights,
        "columns": columns,
        "several": several,
        "dtype": dtype,
        "view": view,
        "cuda": cuda,
    }


def arranged_of(
    weights: list[tuple[str, int]], columns: int
) -> tuple[list[Packed], list[dict[str, Tensor]]]:
    """Weights that differ, and what they are laid out as."""
    packed = [weight_of(name, rows, columns, seed) for seed, (name, rows) in enumerate(weights)]
    return packed, [
        arranged_for(one.scheme, "triton").arrange(one.tensors, one.scheme, columns)
        for one in packed
    ]


def products(
    weights: list[tuple[str, int]],
    columns: int,
    several: list[int],
    dtype: str,
    view: str,
    cuda: bool,
) -> dict:
    """Errors of the kernel and of the reference, weight by weight, and the launches there were."""
    packed, arranged = arranged_of(weights, columns)
    schemes, kind = [one.scheme for one in packed], getattr(torch, dtype)
    launch.device_of = lambda device: Device(multiprocessors=2, cuda=cuda)
    generator = torch.Generator().manual_seed(1)
    if view == "transposed":
        inputs = torch.randn(columns, *several, generator=generator).to(kind).t()
    elif view == "strided":
        inputs = torch.randn(*several, columns + 8, generator=generator).to(kind)[..., 8:]
    else:
        inputs = torch.randn(*several, columns, generator=generator).to(kind)
    counts = counted()
    # What is allocated and not yet written is NaN.
    torch.use_deterministic_algorithms(True)
    outputs = linears(inputs, arranged, schemes)
    torch.use_deterministic_algorithms(False)
    found = {"error": 0.0, "reference": 0.0, **counts()}
    found["apart"] = len({output.untyped_storage().data_ptr() for output in outputs})
    for weight, output in zip(packed, outputs, strict=True):
        assert output.dtype == kind
        assert output.shape == (*several, weight.shape[0])
        assert output.is_contiguous()
        if output.numel():
            expected = reference_of(weight.scheme).linear(inputs, weight.tensors, weight.scheme)
            for key, made in (("error", output), ("reference", expected)):
                wrong = error(made, inputs, weight)
                found[key] = found[key] if wrong <= found[key] else wrong  # NaN is kept
    return found


def counted() -> Callable[[], dict[str, int]]:
    """Count launches from now on; what is returned says how many of each kind there were."""
    names = {"launches": (launch_several, "_launch"), "sums": (launch_several, "_add_up")}
    names |= {"single": (launch, "launch")}
    found = dict.fromkeys(names, 0)

    def counting(key: str, run: Callable) -> Callable:
        def count(*arguments: Any) -> Any:
            found[key] += 1
            return run(*arguments)

        count.run = run  # pyright: ignore[reportFunctionMemberAccess]
        return count

    for key, (module, name) in names.items():
        run = getattr(module, name)
        setattr(module, name, counting(key, getattr(run, "run", run)))
    return lambda: dict(found)


def operator_of_several(name: str) -> dict:
    """What torch says of the operator, and whether a compiled function has it in one graph.

    Of three weights, of which one has the scheme of that name.
    """
    packed, arranged = arranged_of([(name, 40), ("int4g64", 24), ("nvfp4", 24)], 96)
    schemes = [one.scheme for one in packed]
    inputs = torch.randn(3, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    codes, grids = ([held[key] for held in arranged] for key in ("codes", "grid"))
    beside = beside_of_all(arranged, schemes)
    arguments = (inputs, codes, grids, beside, ",".join(map(str, schemes)))
    checked = torch.library.opcheck(torch.ops.bitplan.packed_linears.default, arguments)

    def layer(x: Tensor) -> Tensor:
        return torch.cat(linears(x * 2, arranged, schemes), dim=-1) + 1

    torch.compiler.reset()  # or what differs from the scheme before would be a variable
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs)
        same = torch.equal(compiled, layer(inputs))
    return {"checked": [*checked.values()], "same": same}
