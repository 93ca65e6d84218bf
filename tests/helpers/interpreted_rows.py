"""Rows that Triton's interpreter looks up: for `interpret`."""

import torch

from bitplan.kernels import arranged_for, reference_of
from interpreted import weight_of


def rows_case(
    name: str,
    columns: int,
    places: list,
    dtype: str = "float32",
    kind: str = "int64",
    view: str = "whole",
) -> dict:
    """What `rows_at` is asked for."""
    return {
        "name": name,
        "columns": columns,
        "places": places,
        "dtype": dtype,
        "kind": kind,
        "view": view,
    }


def rows_at(name: str, columns: int, places: list, dtype: str, kind: str, view: str) -> dict:
    """The largest difference of rows that are looked up from the reference's, over the latter."""
    weight = weight_of(name, 37, columns)
    triton, reference = arranged_for(weight.scheme, "triton"), reference_of(weight.scheme)
    arranged = triton.arrange(weight.tensors, weight.scheme, columns)
    tokens = torch.tensor(places, dtype=getattr(torch, kind))
    if view == "strided":
        tokens = torch.stack([tokens, tokens - 1], dim=-1)[..., 0]
    of = (weight.scheme, columns, getattr(torch, dtype))
    # What is allocated and not yet written is NaN.
    torch.use_deterministic_algorithms(True)
    found = triton.lookup(tokens, arranged, *of)
    torch.use_deterministic_algorithms(False)
    expected = reference.lookup(tokens.to(torch.int64), weight.tensors, *of)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if not found.numel():
        return {"error": 0.0}
    apart = (found.double() - expected.double()).abs() / expected.double().abs().clamp_min(1e-9)
    return {"error": apart.max().item()}
