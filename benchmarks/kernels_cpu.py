"""Packed products on the CPU beside torch's: one vector, a few, 512 vectors, experts, and decoding.

    python benchmarks/kernels_cpu.py matvec    # one vector, by shape and width
    python benchmarks/kernels_cpu.py families  # 1, 4, 16 and 512 vectors, beside the reference
    python benchmarks/kernels_cpu.py prefill   # 512 vectors
    python benchmarks/kernels_cpu.py experts   # 1 and 64 tokens through a block of 8 experts
    python benchmarks/kernels_cpu.py decode    # tokens per second of SmolLM2-135M, plan and dense
    python benchmarks/kernels_cpu.py decode-1b # the same of a random model of Llama-3.2-1B's shape

Contenders take turns, so that what else the machine does hits all alike; a row has the median, the
quartiles and the least of its times. One vector meets weights that come from memory, not from a
cache. `--out FILE.json` adds the rows to those of a file, in place of older ones of the same part.
`--clock cpu` counts processor time in place of time: right for one thread on a machine that does
other work, where what is long is put off again and again.
"""

import argparse
import copy
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from bitplan.apply import pack_layer, pack_layers
from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.kernels import arranged_for, choose, reference_of
from bitplan.kernels.integer import cpu, torch_packed
from bitplan.kernels.native import dot
from bitplan.models import fetch, find_layers, load_model, weight_of
from bitplan.schema import Layer, Scheme

SHAPES = [(4096, 4096), (576, 1536), (1536, 576), (192, 576)]
WIDTHS = [2, 3, 4, 5, 6, 8]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
BANDWIDTH_BYTES = 1 << 28
COLD_BYTES = 1 << 27
"""Of copies of a weight that take turns: more than caches hold, as the layers of a model are."""
LOOPS = {"loops": cpu.LOOPS}
if dot.instructions():
    LOOPS = {"dot": cpu.DOT, "dot8": cpu.DOT8, **LOOPS}
FAMILIES = ["int4g64", "int4g64+2:4", "int3g64+2:4", "int4g64+50%", "int4g64+25%", "nf4g64+50%"]
FAMILIES += ["bitmod4g64", "bitmod3g64", "ternaryg64", "ternary2g64", "binary2g64", "signg64"]
FAMILIES += ["nf4g64", "nf3g64", "fp4g64", "mxfp4", "nvfp4", "bfp4g64", "fp6g64", "fp8g64"]
COUNTS = [1, 4, 16, 512]
"""Vectors: of one sequence, of some that are decoded together, and of a prompt."""
MIXED = ["int3g64", "int4g64"]
"""3.5 bits on average, the demo's head and embedding at 4."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, help="keep the rows here, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    rows = PARTS[args.part](args.repeats, CLOCKS[args.clock])
    for row in rows:
        row |= {"part": args.part, "threads": args.threads, "clock": args.clock}
    show(rows)
    if args.out:
        keep(args.out, rows)


def timed(
    contenders: dict[str, Callable[[], Any]], repeats: int, clock: Clock
) -> dict[str, dict[str, float]]:
    """Milliseconds of each: median, quartiles and least."""
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return {name: spread(values) for name, values in times.items()}


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high, "least": min(values)}


def packed(weight: torch.Tensor, name: str) -> Packed:
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def product(
    weight: Packed, inputs: torch.Tensor, kernel: Any, *, cold: bool = False
) -> Callable[[], torch.Tensor]:
    held = kernel.arrange(weight.tensors, weight.scheme, weight.shape[-1])
    copies = in_turn([held], weight.nbytes) if cold else itertools.cycle([held])
    return lambda: kernel.linear(inputs, next(copies), weight.scheme)


def in_turn(weights: list[Any], size: int) -> Iterator[Any]:
    """Copies of a weight, one after the other and again."""
    count = max(1, min(COLD_BYTES // size, 256))
    return itertools.cycle(copy.deepcopy(weights * count))


def matvec(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """One vector in bfloat16 and float32. Bytes are of codes, scales and offsets, or dense."""
    memory = torch.ones(BANDWIDTH_BYTES // 4)
    most = timed({"sum": memory.sum}, 20, clock)["sum"]
    rows = [{"shape": "", "name": "sum of float32", "dtype": "float32", **most}]
    rows[0]["GB/s"] = memory.nbytes / most["median"] / 1e6
    for height, width in SHAPES:
        dense = torch.randn(height, width) * 0.05
        weights = {f"int{bits}g64": packed(dense, f"int{bits}g64") for bits in WIDTHS}
        weights["int8s"] = packed(dense, "int8s")
        for dtype in (torch.bfloat16, torch.float32):
            inputs, kept = torch.randn(1, width).to(dtype), dense.to(dtype)
            turns = in_turn([kept], kept.nbytes)
            contenders: dict[str, Callable[[], Any]] = {
                "dense": lambda turns=turns, inputs=inputs: linear(inputs, next(turns))
            }
            bytes_of = {"dense": kept.nbytes}
            for name, weight in weights.items():
                for kind, kernel in LOOPS.items():
                    contenders[f"{name}, {kind}"] = product(weight, inputs, kernel, cold=True)
                    bytes_of[f"{name}, {kind}"] = weight.nbytes
            for name in ("int4g64", "int8s") if dtype == torch.bfloat16 else ():
                contenders[f"{name}, torch"] = product(
                    weights[name], inputs, torch_packed, cold=True
                )
                bytes_of[f"{name}, torch"] = weights[name].nbytes
            for name, found in timed(contenders, repeats, clock).items():
                speed = bytes_of[name] / found["median"] / 1e6
                row = {"shape": f"{height}x{width}", "name": name, "dtype": str(dtype)[6:]}
                rows.append(row | found | {"GB/s": speed})
    return rows


def families(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """Vectors and what is no plain integer, beside the reference, which decodes it."""
    height, width = SHAPES[0]
    dense, rows = torch.randn(height, width) * 0.05, []
    weights = {name: packed(dense, name) for name in FAMILIES}
    for count in COUNTS:
        inputs, kept = torch.randn(count, width).bfloat16(), dense.bfloat16()
        turns = in_turn([kept], kept.nbytes)
        contenders: dict[str, Callable[[], Any]] = {
            "dense": lambda turns=turns, inputs=inputs: linear(inputs, next(turns))
        }
        slow: dict[str, Callable[[], Any]] = {}
        for name, weight in weights.items():
            kernel = arranged_for(weight.scheme, choose(weight.scheme, (height, width))[0])
            contenders[name] = product(weight, inputs, kernel, cold=True)
            slow[f"{name}, reference"] = partial(
                reference_of(weight.scheme).linear, inputs, weight.tensors, weight.scheme
            )
        times = repeats if count <= COUNTS[2] else max(3, repeats // 6)
        found = timed(contenders, times, clock) | timed(slow, max(3, repeats // 8), clock)
        shape = f"{count}x{height}x{width}"
        rows += [{"shape": shape, "name": n, "dtype": "bfloat16", **t} for n, t in found.items()]
    return rows


def prefill(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """512 vectors."""
    rows = []
    for height, width in SHAPES[1:3]:
        dense = torch.randn(height, width) * 0.05
        for dtype in (torch.bfloat16, torch.float32):
            inputs, kept = torch.randn(512, width).to(dtype), dense.to(dtype)
            contenders: dict[str, Callable[[], Any]] = {"dense": partial(linear, inputs, kept)}
            for name in ("int2g64", "int3g64", "int4g64", "int8s"):
                for kind, kernel in LOOPS.items():
                    contenders[f"{name}, {kind}"] = product(packed(dense, name), inputs, kernel)
            for name, found in timed(contenders, max(2, repeats // 6), clock).items():
                row = {"shape": f"{height}x{width}", "name": name, "dtype": str(dtype)[6:]}
                rows.append(row | found)
    return rows


def experts(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """Two of 8 experts of 3 x 1024 x 512 for each token; decoded: as the reference does it."""
    config = MixtralConfig(hidden_size=512, intermediate_size=1024, num_local_experts=8)
    config._experts_implementation = "eager"
    block = MixtralSparseMoeBlock(config)
    for parameter in block.parameters():
        parameter.normal_(0, 0.02)
    rows = []
    for dtype, count in itertools.product((torch.bfloat16, torch.float32), (1, 64)):
        blocks: dict[str, Any] = {"dense": copy.deepcopy(block).to(dtype)}
        for name in ("int3g64", "int4g32", "int8s", "nf4g32"):
            for how in (name, f"{name}, decoded"):
                model = blocks[how] = copy.deepcopy(block).to(dtype)
                for layer in find_layers(model):
                    weight = packed(weight_of(model, layer), name)
                    pack_layer(model, layer, weight, arrange=how == name)
        inputs = torch.randn(1, count, 512).to(dtype)
        runs = {name: partial(model, inputs) for name, model in blocks.items()}
        row = {"shape": f"{count} to 2 of 8", "dtype": str(dtype)[6:]}
        found = timed(runs, repeats if count == 1 else max(2, repeats // 6), clock)
        rows += [row | {"name": name} | times for name, times in found.items()]
    return rows


def decode(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """Milliseconds per token at batch 1, after a prompt of 8, of SmolLM2-135M."""
    file = str(fetch().gguf)
    dtypes = (torch.bfloat16, torch.float32)
    return _decoding(
        "SmolLM2-135M", dtypes, lambda dtype: load_model(file, dtype=dtype), repeats, clock
    )


def decode_1b(repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """The same of a random model of Llama-3.2-1B's shape, in bfloat16."""
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        tie_word_embeddings=True,
    )

    def make(dtype: torch.dtype) -> Any:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return _decoding("Llama 1B", (torch.bfloat16,), make, repeats, clock)


def _decoding(
    shape: str,
    dtypes: tuple[torch.dtype, ...],
    make: Callable[[torch.dtype], Any],
    repeats: int,
    clock: Clock,
) -> list[dict[str, Any]]:
    models: dict[tuple[str, str], Any] = {}
    for dtype in dtypes:
        models["dense", str(dtype)[6:]] = make(dtype)
        models["3.5 bits", str(dtype)[6:]] = small = make(dtype)
        _pack(small)
    new_tokens = 16
    times: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    for turn in range(1 + max(3, repeats // 8)):
        for key, model in models.items():
            taken = _seconds(model, 1 + new_tokens, clock) - _seconds(model, 1, clock)
            if turn:
                times[key].append(1e3 * taken / new_tokens)
    return [
        {"shape": shape, "name": name, "dtype": dtype, **spread(values)}
        | {"tokens/s": 1e3 / statistics.median(values)}
        for (name, dtype), values in times.items()
    ]


def _pack(model: Any) -> None:
    layers = find_layers(model)
    schemes: dict[Layer, Scheme] = {}
    for index, layer in enumerate(layers):
        name = "int4g64" if "embed" in layer.name else MIXED[index % len(MIXED)]
        schemes[layer] = Scheme.parse(name)
    pack_layers(model, schemes, lambda layer, s: packed(weight_of(model, layer), str(s)))


def _seconds(model: Any, count: int, clock: Clock) -> float:
    inputs = torch.ones(1, 8, dtype=torch.int64)
    settings = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count}
    start = clock()
    model.generate(inputs, attention_mask=inputs, pad_token_id=0, **settings)
    return clock() - start


PARTS = {
    "matvec": matvec,
    "families": families,
    "prefill": prefill,
    "experts": experts,
    "decode": decode,
    "decode-1b": decode_1b,
}


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'shape':13} {'dtype':9} {'name':22} {'ms, median':>11} {'quartiles':>19} {'least':>9}")
    for row in rows:
        quartiles = f"{row['low']:.4f} - {row['high']:.4f}"
        times = f"{row['median']:11.4f} {quartiles:>19} {row['least']:9.4f}"
        more = "".join(f" {row[key]:7.1f} {key}" for key in ("GB/s", "tokens/s") if key in row)
        print(f"{row['shape']:13} {row['dtype']:9} {row['name']:22} {times}{more}")


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows in place of those of the same part, threads and clock."""
    new = {(row["part"], row["threads"], row["clock"]) for row in rows}
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    others = [row for row in old if (row["part"], row["threads"], row["clock"]) not in new]
    rounded = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    content = {"machine": machine, "torch": torch.__version__, "rows": [*others, *rounded]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
