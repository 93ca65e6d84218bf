"""The static costs as a page: tables, and a roofline made of them. See kernels_static.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from kernels_static_peer import OF_LOOP, OF_PEER

from bitplan.formats.scales import CHOICE_BITS
from bitplan.kernels.gpu.ahead import EXPERTS
from bitplan.schema import Scheme


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a roofline takes from a data sheet."""

    name: str
    bandwidth: float  # bytes a second
    lanes: float  # instructions a second, of one lane each
    integer: float  # the same, of integers


# Bandwidth and boost clock: vendors' data sheets. A multiprocessor of NVIDIA's issues 4 warps a
# cycle (128 lanes) and has 64 lanes for integers, 128 since compute capability 12.0; a compute unit
# of CDNA 3 has 4 x 16 lanes.
PARTS = {
    "sm_80": Part(
        name="A100 80GB", bandwidth=2.039e12, lanes=108 * 128 * 1.41e9, integer=108 * 64 * 1.41e9
    ),
    "sm_90": Part(
        name="H100 SXM", bandwidth=3.35e12, lanes=132 * 128 * 1.83e9, integer=132 * 64 * 1.83e9
    ),
    "sm_100": Part(
        name="B200", bandwidth=8.0e12, lanes=148 * 128 * 1.965e9, integer=148 * 64 * 1.965e9
    ),
    "sm_120": Part(
        name="RTX 5090", bandwidth=1.792e12, lanes=170 * 128 * 2.407e9, integer=170 * 128 * 2.407e9
    ),
    "gfx942": Part(
        name="MI300X", bandwidth=5.3e12, lanes=304 * 64 * 2.1e9, integer=304 * 64 * 2.1e9
    ),
}
# [out, in] of the linear layers of one block of Llama 3.1, and how many blocks.
MODELS = {
    "8B": (
        32,
        [
            (4096, 4096),
            (1024, 4096),
            (1024, 4096),
            (4096, 4096),
            (14336, 4096),
            (14336, 4096),
            (4096, 14336),
        ],
    ),
    "70B": (
        80,
        [
            (8192, 8192),
            (1024, 8192),
            (1024, 8192),
            (8192, 8192),
            (28672, 8192),
            (28672, 8192),
            (8192, 28672),
        ],
    ),
}


ROOFS = (
    *("int2g64", "int3g64", "int4g64", "int4g64d", "fp8g64", "nf4g64", "mxfp4", "nvfp4"),
    *("int4g64+2:4", "int4g64+50%"),
)
"""Schemes that the roofline is drawn for."""


def bytes_per_weight(scheme: Scheme, columns: int) -> float:
    """Codes, and what a group has: scale and offset, or those of both planes, and a choice.

    And what says which weights are kept, where some are left out.
    """
    family, codes = scheme.family, scheme.bits
    if scheme.sparsity:
        kept = scheme.sparsity.columns(columns) / columns
        codes = codes * kept + scheme.sparsity.code_bits / (scheme.sparsity.block or 1)
    numbers = family.planes if scheme.symmetric else 2
    number_bytes = 1 if scheme.double else family.scale_bytes
    of_group = number_bytes * numbers + (CHOICE_BITS / 8 if family.choices > 1 else 0)
    return codes / 8 + of_group / (scheme.group_size or columns)


def seconds(kernel: dict, rows: int, columns: int) -> tuple[float, str]:
    """The longest of reading, issuing and integers, as if they overlapped; and which it is."""
    part, scheme = PARTS[kernel["target"]], Scheme.parse(kernel["scheme"])
    weights = rows * columns
    times = {
        "memory": weights * bytes_per_weight(scheme, columns) / part.bandwidth,
        "issue": weights * kernel["instructions"] / part.lanes,
        "integers": weights * kernel["integer"] / part.integer,
    }
    bound = max(times, key=times.__getitem__)
    return times[bound], bound


INTRODUCTION = """<!-- Written by benchmarks/kernels_static.py. -->

# What the Triton kernels cost, as far as machine code tells

Compiled by Triton {triton} for devices that were not there, for a weight of 4096 x 4096 and
inputs in bfloat16, and read from the machine code. **Nothing on this page was measured on a GPU.**
`instructions`, `integer` and `tensor` are what one lane executes for one weight in the loop over
columns; `warps` are those that a multiprocessor holds at once, by registers and shared memory.
`loads` are a thread's loads from global memory for 256 columns of its rows, by width in bits: of
128 those of codes and inputs, of 32 those of scales; small groups take their inputs by 64 or 32.
Where weights are left out, few inputs of N:M come by 32, in the order of blocks, and so do the
codes of weights with a bit each, gathered from where the bits say; by 64 what N:M has beside words.
A weight of two planes is two launches of one kernel: all but `bytes a weight` is of one of them;
those of `ternary2` are that of `ternary`, whose loop is told together with the rest of a row that
is no whole panel, 1.8 panels in place of one, on sm_100 for 64 tokens and 512.

| scheme | tokens | target | registers | spilled | shared bytes | warps | instructions | integer |
tensor | bytes a weight | loads |
|---|---|---|---|---|---|---|---|---|---|---|---|
""".replace("integer |\ntensor", "integer | tensor")

OF_EXPERTS = f"""## Experts

Of {EXPERTS} weights of 4096 x 4096 in one launch; tokens are those of each. The loop over columns
is that of the product with one.
"""

OF_TOGETHER = """## Weights that run as one launch

Queries, keys and values of Llama 3.1 8B (4096, 1024 and 1024 rows of 4096 columns), or gate and up
(14336 rows each). Weights of one scheme are one loop, that of the product with one; others have
loops beside each other, of which a program runs one.
"""

OF_LOOKUPS = """## Rows that are looked up

A program writes a panel of eight rows, and the kernel has no loop.
"""

ROOFLINE = """
## A roofline, not a measurement

Time of all linear layers of Llama 3.1 for one token: for each layer the longest of reading the
weights at the data sheet's bandwidth, issuing the loop's instructions, and its integer instructions
on the lanes there are for them, as if the three overlapped fully. Launches, latencies, the sum over
splits, attention and all else cost nothing here, so these are bounds from below. In brackets: what
binds, and how many times as long the weights take to read in bfloat16.

"""


def page(report: dict) -> str:
    """The report as Markdown."""
    kernels, lines = report["kernels"], []
    for k in kernels:
        loads = ", ".join(f"{count} x {bits}" for bits, count in k["loads"].items())
        size = bytes_per_weight(Scheme.parse(k["scheme"]), 4096)
        plain = ("scheme", "tokens", "target", "registers", "spilled", "shared_bytes")
        cells = [str(k[name]) for name in (*plain, "warps_resident")]
        cells += [f"{k[name]:.2f}" for name in ("instructions", "integer", "tensor")]
        lines.append(" | ".join(["", *cells, f"{size:.3f}", loads, ""]).strip())
    table = [
        "| model | scheme | " + " | ".join(part.name for part in PARTS.values()) + " |",
        "|---|---|" + "---|" * len(PARTS),
    ]
    for model, (blocks, shapes) in MODELS.items():
        for name in ROOFS:
            cells = []
            for target, part in PARTS.items():
                one = [
                    k
                    for k in kernels
                    if (k["scheme"], k["tokens"], k["target"]) == (name, 1, target)
                ]
                if not one:
                    cells.append("–")
                    continue
                times = [seconds(one[0], *shape) for shape in shapes]
                total = blocks * sum(time for time, _ in times)
                dense = blocks * sum(2 * r * c for r, c in shapes) / part.bandwidth
                cells.append(f"{1000 * total:.2f} ms ({times[0][1]}, {dense / total:.1f}x)")
            table.append(f"| {model} | {name} | " + " | ".join(cells) + " |")
    introduction = INTRODUCTION.format(triton=report["triton"])
    lines += ["", OF_EXPERTS, *_rows(report["experts"], "scheme", "tokens", "target")]
    lines += ["", OF_TOGETHER, *_rows(report["together"], "weights", "tokens", "target")]
    lines += ["", OF_LOOKUPS, *_rows(report["lookups"], "scheme", "target")]
    lines += [
        "",
        OF_PEER.rstrip() + "\n",
        *_rows(report["peer"], "tokens", "target", "of", "block", rates=OF_LOOP),
    ]
    return introduction + "\n".join([*lines, ROOFLINE]) + "\n".join(table) + "\n"


def _rows(kernels: list[dict], *names: str, rates: Sequence[str] = ()) -> list[str]:
    """A table of what is told of a kernel whatever it computes, and of some what its loop does."""
    names = (*names, "registers", "spilled", "shared_bytes", "warps_resident")
    head = " | ".join((*names, *rates)).replace("_bytes", " bytes").replace("_resident", "")
    lines = [f"| {head} |", "|---" * len((*names, *rates)) + "|"]
    for kernel in kernels:
        cells = [str(kernel[name]) for name in names] + [f"{kernel[name]:.2f}" for name in rates]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
