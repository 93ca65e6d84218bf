"""Tokens per second and peak memory."""

import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitplan.models import main_input

RUNS = 3


def tokens_per_second(model: nn.Module, *, new_tokens: int = 8, prompt: int = 8) -> float | None:
    """Greedy decoding at batch 1: the median of three runs after one to warm up.

    None for a model that does not generate from text.
    """
    if not hasattr(model, "generate") or main_input(model) != "input_ids":
        return None
    generator: Any = model
    inputs = torch.ones(1, prompt, dtype=torch.int64)
    settings = {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    speeds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        generator.generate(inputs, attention_mask=inputs, pad_token_id=0, **settings)
        speeds.append(new_tokens / (time.perf_counter() - start))
    return statistics.median(speeds[1:])


def reset_peak_memory() -> None:
    """Start a new peak, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Peak resident bytes of this process, since the last reset where the system can."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
