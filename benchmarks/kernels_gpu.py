"""Packed products on a GPU beside torch's bfloat16 and what else is installed, in one run.

    python benchmarks/kernels_gpu.py [SCHEME ...] [--rows 4096] [--columns 4096] [--out FILE.json]

Contenders: ours with each scheme, and with three weights as one launch beside three; torch in
bfloat16; gemlite, torchao and Marlin with 4 bits in groups of 128, each where it is installed. They
take turns, so that what else the device does hits all alike, and the cache is emptied before each
product. A line has the median, the quartiles and the least, and the rate at which weights came from
memory by it. What ours computes is compared with the decoded weight first.

It needs a GPU, and says so where there is none.
"""

import argparse
import importlib
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitplan.compress import render
from bitplan.kernels.gpu.operator import linears
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme

SCHEMES = ("int2g64d", "int3g64d", "int4g64d", "int4g128", "int8s", "nf4g64", "nvfp4")
TOKENS = (1, 4, 16, 64, 512, 2048)
GROUP = 128
"""Of peers."""
TOLERANCE = 0.02
"""Of the norm of a product in bfloat16: what rounds inputs and sums may lose."""

Product = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("schemes", nargs="*", metavar="SCHEME", default=SCHEMES)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep the rows here, as JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU here, so nothing was measured.")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    rows = measure(args.schemes, args.rows, args.columns, args.rounds, torch.device("cuda"))
    if args.out:
        told = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        args.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def measure(
    names: Sequence[str], rows: int, columns: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    weight = torch.randn(rows, columns, device=device) / columns**0.5
    products = {"torch, bfloat16": (dense(weight), 2 * weight.numel())}
    products |= {name: ours(weight, name) for name in names}
    products |= together(weight)
    for name, make in PEERS.items():
        try:
            products[name] = make(weight)
        except Exception as error:  # others' code, and its compilers': whatever it meets
            print(f"{name} is left out: {error}")
    found = []
    print(f"{'tokens':>6} {'':26} {'us, median':>11} {'quartiles':>19} {'least':>9}")
    for tokens in TOKENS:
        inputs = torch.randn(tokens, columns, device=device, dtype=torch.bfloat16)
        present = {
            name: product for name, product in products.items() if runs(name, product[0], inputs)
        }
        times: dict[str, list[float]] = {name: [] for name in present}
        for _ in range(rounds):
            for name, (product, _) in present.items():
                times[name] += timed(product, inputs)
        for name, (_, size) in present.items():
            low, middle, high = statistics.quantiles(times[name], n=4)
            row = {"name": name, "tokens": tokens, "rows": rows, "columns": columns}
            row |= {"median": middle, "low": low, "high": high, "least": min(times[name])}
            quartiles = f"{low:.2f} - {high:.2f}"
            rate = f"{size / middle / 1e3:.0f} GB/s"
            print(
                f"{tokens:6} {name:26} {middle:11.2f} {quartiles:>19} {row['least']:9.2f}  {rate}"
            )
            found.append(row)
    return found


def runs(name: str, product: Product, inputs: Tensor) -> bool:
    """Whether a contender makes the product at all; a peer that does not is left out, and told."""
    if name not in PEERS:
        return True
    try:
        product(inputs)
        torch.cuda.synchronize()
    except Exception as error:
        print(f"{name} is left out for {len(inputs)} tokens: {error}")
        return False
    return True


def timed(product: Product, inputs: Tensor) -> list[float]:
    """Microseconds, of as many products as fit 40 ms."""
    # Imported here, for it looks for a device.
    from triton.testing import do_bench

    times: Any = do_bench(lambda: product(inputs), warmup=10, rep=40, return_mode="all")
    return [1e3 * time for time in times]


def dense(weight: Tensor) -> Product:
    matrix = weight.bfloat16()
    return lambda inputs: nn.functional.linear(inputs, matrix)


def packed(weight: Tensor, name: str) -> PackedWeight:
    scheme = Scheme.parse(name)
    held = PackedWeight(
        render(weight.cpu(), [scheme], quantizer="rtn")[scheme], compute_dtype=torch.bfloat16
    )
    held.to(weight.device).arrange()
    return held


def ours(weight: Tensor, name: str) -> tuple[Product, int]:
    held = packed(weight, name)
    matrix = held.packed().decode(torch.float32)
    for tokens in (1, 16, 64):
        inputs = torch.randn(tokens, weight.shape[1], device=weight.device, dtype=torch.bfloat16)
        wanted = inputs.float() @ matrix.T
        error = (held.multiply(inputs).float() - wanted).norm() / wanted.norm()
        if not error < TOLERANCE:
            raise SystemExit(f"{name} with {tokens} tokens is wrong by {error:.3f} of its norm.")
    return held.multiply, held.packed().nbytes


def together(weight: Tensor) -> dict[str, tuple[Product, int]]:
    """Queries, keys and values: as one launch, and as three."""
    each = len(weight) // 4
    parts = (weight, weight[:each], weight[each : 2 * each])
    weights = [packed(one.contiguous(), "int4g64") for one in parts]
    held = [dict([*one.named_parameters(), *one.named_buffers()]) for one in weights]
    schemes = [one.scheme for one in weights]
    size = sum(one.packed().nbytes for one in weights)
    joined: Any = lambda inputs: linears(inputs, held, schemes)  # noqa: E731
    apart: Any = lambda inputs: [one.multiply(inputs) for one in weights]  # noqa: E731
    return {"int4g64 x 3, one launch": (joined, size), "int4g64 x 3, apart": (apart, size)}


def gemlite(weight: Tensor) -> tuple[Product, int]:
    peer: Any = importlib.import_module("gemlite")
    rows, columns = weight.shape
    dtype = peer.DType.BF16
    layer = peer.GemLiteLinear(4, GROUP, columns, rows, input_dtype=dtype, output_dtype=dtype)
    codes, scales, zeros = grouped(weight)
    layer.pack(codes, scales, zeros)
    return layer.forward, weight.numel() // 2 + 4 * scales.numel()


def torchao(weight: Tensor) -> tuple[Product, int]:
    peer: Any = importlib.import_module("torchao.quantization")
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=False, device=weight.device, dtype=torch.bfloat16)
    layer.weight.copy_(weight)
    peer.quantize_(layer, peer.Int4WeightOnlyConfig(group_size=GROUP))
    return layer, weight.numel() // 2 + 4 * weight.numel() // GROUP


def marlin(weight: Tensor) -> tuple[Product, int]:
    """Of symmetric codes, in float16: it knows nothing else."""
    peer: Any = importlib.import_module("marlin")
    rows, columns = weight.shape
    layer = peer.Layer(columns, rows, groupsize=GROUP).to(weight.device)
    source = nn.Linear(columns, rows, bias=False, device=weight.device, dtype=torch.float16)
    source.weight.copy_(weight)
    scales = weight.view(rows, -1, GROUP).abs().amax(-1) / 7
    layer.pack(source, scales.half())
    size = weight.numel() // 2 + 2 * scales.numel()
    return lambda inputs: layer(inputs.half()), size


PEERS = {
    "gemlite, 4 bits": gemlite,
    "torchao, 4 bits": torchao,
    "Marlin, 4 bits, float16": marlin,
}


def grouped(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [rows, columns], scales and zeros [rows, groups], rounded to nearest."""
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = (high - low) / 15
    zeros = -low / scales
    codes = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    return codes.view_as(weight).byte(), scales.bfloat16(), zeros.bfloat16()


if __name__ == "__main__":
    main()
