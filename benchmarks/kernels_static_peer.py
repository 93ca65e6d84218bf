"""What gemlite's kernels cost beside ours, read from machine code alike: see kernels_static.py."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
import triton
from peer_environment import python_of, run

from bitplan.kernels.gpu.ahead import DEVICES, TARGETS, case_of, compile_ahead
from bitplan.kernels.gpu.machine_code import PARTS, cost
from bitplan.schema import Scheme

PACKAGES = (
    *(f"torch=={torch.__version__.split('+')[0]}", f"triton=={triton.__version__}"),
    *("numpy", "tqdm", "gemlite==0.6.0.post2"),
)
SCHEME = Scheme.parse("int4g128")
TOKENS = (1, 16, 32, 512)
TOLD = ("registers", "spilled", "shared_bytes", "warps_resident")
OF_LOOP = ("instructions", "integer", "tensor")

OF_PEER = f"""## Beside gemlite

{PACKAGES[-1].replace("==", " ")} at 4 bits in groups of 128, bfloat16, 4096 x 4096, compiled by the
same Triton. For each number of tokens it is the kernel that gemlite picks, in the configuration
that its authors tuned and ship for the device (for a B200, that of an H100), or `(first)` of those
that it would try where they have none. `block` is how many tokens a program multiplies its weights
with; instructions are for one weight, once for all of them.
Its kernel for one token has no loop, and that for 16 on sm_80 was unrolled as a whole: what is told
of those is of all their instructions. For one token it needs no tensor cores.

"""


def measure_peer(folder: Path) -> list[dict]:
    """Ours and gemlite's, for all tokens and devices; its environment is kept in the folder."""
    python = python_of(PACKAGES, folder.resolve() / "gemlite")
    kernels = []
    with TemporaryDirectory() as place:
        for target in TARGETS:
            shared = PARTS[target].shared_of_program
            script = Path(__file__).with_name("peer_gemlite.py")
            figures = (target, DEVICES[target].multiprocessors, shared, place, *TOKENS)
            run([python, script, *figures], folder.resolve() / "gemlite.log")
        for tokens in TOKENS:
            for target in TARGETS:
                kernels += [_ours(tokens, target), _theirs(tokens, target, Path(place))]
    return kernels


def _ours(tokens: int, target: str) -> dict:
    case = case_of(SCHEME, tokens, target)
    found = asdict(cost(compile_ahead(case, target), target, case.blocks.rows))
    return {"of": "bitplan", "tokens": tokens, "target": target, "block": case.blocks.tokens} | {
        name: found[name] for name in (*TOLD, *OF_LOOP)
    }


def _theirs(tokens: int, target: str, place: Path) -> dict:
    told = json.loads((place / f"{target}-{tokens}.json").read_text())
    binary = "cubin" if target.startswith("sm_") else "amdgcn"
    code = (place / f"{target}-{tokens}.{binary}").read_bytes()
    kernel = SimpleNamespace(
        asm={binary: code if binary == "cubin" else code.decode()},
        metadata=SimpleNamespace(num_warps=told["warps"], shared=told["shared"]),
    )
    found = asdict(cost(kernel, target, told["rows"], told["columns"], columns=told["share"]))
    name = f"gemlite, {told['kernel']}{'' if told['tuned'] else ' (first)'}"
    return {"of": name, "tokens": tokens, "target": target, "block": told["block"]} | {
        name: found[name] for name in (*TOLD, *OF_LOOP)
    }
