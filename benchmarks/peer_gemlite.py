"""gemlite's kernels, compiled for a device that is not there: run in an environment of its own.

    python peer_gemlite.py TARGET MULTIPROCESSORS SHARED FOLDER TOKENS...

gemlite asks the device when it is imported, so one is made up of the target's figures. Where its
own tuned configurations know the shape, that one is compiled (for a B200, those of an H100); it
picks the kernel for each number of tokens itself. FOLDER takes the machine code and what it is of.
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner

ROWS = COLUMNS = 4096
GROUP = 128
NAMES = {"sm_80": "a100", "sm_90": "h100", "sm_100": "h100", "sm_120": "5090", "gfx942": "mi300x"}


def driver_of(target: str, shared: int) -> Any:
    """A device that nothing runs on, as Triton asks for it."""
    is_cuda = target.startswith("sm_")
    of = GPUTarget("cuda", int(target[3:]), 32) if is_cuda else GPUTarget("hip", target, 64)
    return SimpleNamespace(
        utils=SimpleNamespace(get_device_properties=lambda _: {"max_shared_mem": shared}),
        get_current_target=lambda: of,
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
        get_benchmarker=lambda: None,
    )


def main() -> None:
    target, multiprocessors, shared, folder, *counts = sys.argv[1:]
    driver.set_active(driver_of(target, int(shared)))
    capability = divmod(int(target[3:]), 10) if target.startswith("sm_") else (9, 4)
    found = SimpleNamespace(name=NAMES[target], multi_processor_count=int(multiprocessors))
    torch.cuda.get_device_properties = lambda *_: found
    torch.cuda.get_device_capability = lambda *_: capability
    torch.cuda.get_device_name = lambda *_: found.name
    torch.cuda.current_device = lambda: 0
    taken: list[tuple[Any, Any, bool]] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        """In place of tuning and launching: the first configuration of those that are left."""
        del warmup
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config, *others = self.prune_configs(keywords)
        kernel = self.fn.warmup(*args, grid=grid, **keywords, **config.all_kwargs())
        taken.append((config, kernel, not others))

    Autotuner.run = run
    gemlite: Any = importlib.import_module("gemlite")
    core: Any = importlib.import_module("gemlite.core")
    layer = gemlite.GemLiteLinear(
        4, GROUP, COLUMNS, ROWS, input_dtype=gemlite.DType.BF16, output_dtype=gemlite.DType.BF16
    )
    numbers = torch.ones(ROWS, COLUMNS // GROUP, dtype=torch.bfloat16)
    layer.pack(torch.zeros(ROWS, COLUMNS, dtype=torch.uint8), numbers, numbers)
    for tokens in map(int, counts):
        kind = core.get_matmul_type(tokens, 4)
        meta, tensors = layer.get_meta_args(), layer.get_tensor_args()
        inputs = torch.zeros(tokens, COLUMNS, dtype=torch.bfloat16)
        forward = core.GEMLITE_TRITON_MAPPING[kind].forward
        forward(inputs, *tensors[:3], None, *meta[1:-1], bool(meta[1]), 104, meta_scale=0.0)
        config, kernel, is_tuned = taken.pop()
        options = config.all_kwargs()
        told = {
            "kernel": kind,
            "tuned": is_tuned,
            "rows": options["BLOCK_SIZE_N"],
            "block": options["BLOCK_SIZE_M"],
            "columns": options["BLOCK_SIZE_K"],
            # What a program takes in all: two blocks by the kernel that has no loop.
            "share": 2 * options["BLOCK_SIZE_K"]
            if kind == "GEMV_REVSPLITK"
            else COLUMNS // options.get("SPLIT_K", 1),
            "warps": kernel.metadata.num_warps,
            "shared": kernel.metadata.shared,
        }
        name = Path(folder) / f"{target}-{tokens}"
        binary = "cubin" if "cubin" in kernel.asm else "amdgcn"
        code = kernel.asm[binary]
        name.with_suffix(f".{binary}").write_bytes(
            code if isinstance(code, bytes) else code.encode()
        )
        name.with_suffix(".json").write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
