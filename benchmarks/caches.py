"""Rounding the KV cache of SmolLM2-135M: predicted beside measured KL, plans, and speed.

    python benchmarks/caches.py swaps    # single swaps in a few blocks, 2 x 256 tokens, float32
    python benchmarks/caches.py plans    # the whole cache: uniform and solved plans of equal bytes
    python benchmarks/caches.py speed    # tokens per second of packed weights, by the cache

Titles are sorted and shuffled with `random.Random(0)`; the first half of the articles calibrates,
the second half is judged on. Weights stay as they are, but for `speed`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from bitplan import Budget, solve
from bitplan.allocator import uniform
from bitplan.apply import pack_layer
from bitplan.cache import pack_caches
from bitplan.calibration import TokenSets, tokenize
from bitplan.compress import render
from bitplan.evaluate import compare, make_reference
from bitplan.models import (
    demo_documents,
    fetch,
    find_caches,
    find_layers,
    load_model,
    load_tokenizer,
    rounded_caches,
    weight_of,
)
from bitplan.one_token import step_by_step
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.caches import legal_caches, measured_caches
from bitplan.pipeline.provenance import provenance_of
from bitplan.schema import CostTable, Scheme
from bitplan.sensitivity import cache_rows

CONTEXT = 2048
WEIGHTS = Scheme.parse("int4g64")
SWAPS = ("int2g64", "int4g64", "int4g32", "int8g64")
BLOCKS = (0, 9, 19, 29)


def tokens_of(sequences: int) -> tuple[Tensor, Tensor]:
    """To calibrate and to judge on."""
    files = fetch()
    documents, tokenizer = demo_documents(files), load_tokenizer(str(files.gguf))
    half = len(documents) // 2
    parts = documents[:half], documents[half:]
    calibration, held_out = (tokenize(part, tokenizer, sequences, 256) for part in parts)
    return calibration, held_out


def swaps() -> None:
    model, (tokens, _) = load_model(str(fetch().gguf), dtype="float32"), tokens_of(2)
    menu = {
        cached.layer: tuple(map(Scheme.parse, SWAPS))
        for cached in find_caches(model, context=CONTEXT)
        if cached.layer.block in BLOCKS
    }
    start = time.perf_counter()
    with _folder() as folder:
        rows = cache_rows(model, menu, tokens, folder)
    print(f"estimates: {time.perf_counter() - start:.1f} s")
    reference = make_reference(model, tokens)
    found = []
    for row in rows:
        for cost in row.costs:
            with rounded_caches(model, {row.layer.name: cost.scheme}):
                measured = compare(model, reference).mean
            found.append((row.layer.kind, cost.scheme.bits, cost.loss, measured))
            print(f"{row.layer.name:32} {cost.scheme!s:8} {cost.loss:9.2e} {measured:9.2e}")
    for name, part in {
        "all": found,
        **{kind: [f for f in found if f[0] == kind] for kind in ("keys", "values")},
        **{f"{bits} bits": [f for f in found if f[1] == bits] for bits in (2, 4, 8)},
    }.items():
        predicted, measured = np.array([f[2] for f in part]), np.array([f[3] for f in part])
        rank = spearmanr(predicted, measured)[0]
        ratio = np.median(predicted / measured)
        print(f"{name}: {len(part)} swaps, Spearman {rank:.3f}, predicted/measured {ratio:.2f}")


def plans() -> None:
    calibration, held_out = tokens_of(8)
    sets = TokenSets(calibration=calibration, search=held_out, held_out=held_out, source="articles")
    with _folder() as folder:
        settings = Settings(context=CONTEXT, quantizer="rtn")
        workspace = Workspace.open(str(fetch().gguf), workdir=folder)
        start = time.perf_counter()
        table = CostTable(
            provenance=provenance_of(workspace, sets, settings),
            rest_bytes=0,
            rows=measured_caches(workspace, settings, sets),
        )
        print(f"{len(legal_caches(workspace, settings))} rows: {time.perf_counter() - start:.1f} s")
    reference = make_reference(workspace.model, held_out)
    alike = [p for p in uniform(table) if p.solver.endswith(("g64", "bf16"))]
    between = [(one.bytes + two.bytes) // 2 for one, two in pairwise(alike)]
    solved = [solve(table, Budget(bytes=size)) for size in (*between, *(p.bytes for p in alike))]
    for plan in sorted((*alike, *solved), key=lambda plan: (-plan.bytes, plan.solver)):
        with rounded_caches(workspace.model, plan.schemes):
            found = compare(workspace.model, reference)
        print(
            f"{plan.bytes:>12,} bytes {plan.solver:16} predicted {plan.predicted_kl:.4f} measured "
            f"{found.mean:.4f} ± {found.standard_error:.4f} perplexity {found.perplexity:.2f}",
            flush=True,
        )


def speed() -> None:
    torch.set_grad_enabled(False)
    files = fetch()
    for scheme in (None, "int8g64", "int4g64", "int2g64"):
        model: Any = load_model(str(files.gguf), dtype=torch.bfloat16)
        for layer in find_layers(model):
            weight = weight_of(model, layer).float()
            pack_layer(model, layer, render(weight, [WEIGHTS], quantizer="rtn")[WEIGHTS])
        step_by_step(model)
        if scheme:
            caches = find_caches(model, context=CONTEXT)
            schemes = {cached.layer.name: Scheme.parse(scheme) for cached in caches}
            pack_caches(model, schemes, context=CONTEXT)
        speeds = [_tokens_per_second(model) for _ in range(4)][1:]
        spread = f"{min(speeds):.1f} to {max(speeds):.1f}"
        print(f"{scheme}: {statistics.median(speeds):.1f} tokens a second, {spread}", flush=True)


def _tokens_per_second(model: Any, *, prompt: int = 256, new_tokens: int = 16) -> float:
    """Of tokens after the first."""
    inputs, times = torch.ones(1, prompt, dtype=torch.int64), []
    for count in (1, 1 + new_tokens):
        start = time.perf_counter()
        model.generate(
            inputs,
            attention_mask=inputs,
            pad_token_id=0,
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
        )
        times.append(time.perf_counter() - start)
    return new_tokens / (times[1] - times[0])


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


if __name__ == "__main__":
    parts = {"swaps": swaps, "plans": plans, "speed": speed}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parts[parser.parse_args().part]()
