"""What a runtime can load: its name -> a function of layer and scheme that says why not, or None.

Knows no tensors, so that a plan can be made for a runtime where there is none.
"""

from collections.abc import Callable

from bitplan.errors import InputError
from bitplan.schema import Kind, Layer, Scheme

INT4_GROUPS = (32, 64, 128)
"""Groups that the 4-bit matmul has."""

INT4_ROWS = 16
"""The 4-bit matmul takes whole blocks of this many output rows."""

INT8_SIDES = 16
"""The 8-bit matmul reads past the end of a weight whose rows' length this does not divide."""

ROWS_AT_ONCE = 4096
"""Output rows that are decoded together: the dense weight never exists whole."""


def unfit(scheme: Scheme, rows: int, columns: int) -> str | None:
    """Why torch has no exact packed matmul on the CPU for a coded scheme and shape, or None.

    >>> unfit(Scheme.parse("int3g64"), 64, 64)
    'torch has exact matmuls for int4g32, int4g64, int4g128 and int8s alone'
    """
    alone = "torch has exact matmuls for int4g32, int4g64, int4g128 and int8s alone"
    if not scheme.is_integer or scheme.double or scheme.sparsity or scheme.is_composed:
        return alone
    if scheme.bits == 4 and not scheme.symmetric and scheme.group_size in INT4_GROUPS:
        if columns % scheme.group_size:
            return "torch's 4-bit matmul wants whole groups"
        return f"torch's 4-bit matmul wants rows in {INT4_ROWS}s" if rows % INT4_ROWS else None
    if scheme.bits == 8 and scheme.symmetric and scheme.group_size is None:
        whole = rows % INT8_SIDES == 0 and columns % INT8_SIDES == 0
        return None if whole else f"torch's 8-bit matmul wants sides in {INT8_SIDES}s"
    return alone


def any_scheme(layer: Layer, scheme: Scheme) -> str | None:
    """What `bitplan.load` reads and runs: every layer in every scheme.

    On the CPU, compiled loops multiply linears, embeddings and experts as they are packed; a few of
    two planes are decoded as they are used, like convolutions.
    """
    del layer, scheme
    return None


def torch_cpu(layer: Layer, scheme: Scheme) -> str | None:
    """What torch's own packed matmuls multiply as it is stored: nothing is decoded.

    Dense weights; linears that the matmuls fit; and embeddings in every scheme, unless the head is
    tied to them, for only the rows that are looked up are decoded. `BITPLAN_KERNEL=torch` uses the
    matmuls; without it bitplan's own loops, which read these schemes too.
    """
    if scheme.is_float or scheme.is_none:
        return None
    if layer.kind in (Kind.LINEAR, Kind.CONV1D):
        return unfit(scheme, *layer.shape)
    if layer.kind is Kind.EMBEDDING:
        return "the head that is tied to it would decode it for every token" if layer.tied else None
    return f"there is no packed matmul for {layer.kind}"


RUNTIMES: dict[str, Callable[[Layer, Scheme], str | None]] = {
    "bitplan": any_scheme,
    "torch-cpu": torch_cpu,
}


def get_runtime(name: str) -> Callable[[Layer, Scheme], str | None]:
    """The runtime of a name. Raises `InputError` where there is none."""
    if name not in RUNTIMES:
        raise InputError(f"There is no runtime {name!r}. Choose one of {', '.join(RUNTIMES)}.")
    return RUNTIMES[name]
