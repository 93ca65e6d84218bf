"""What a compiled kernel costs, read from its machine code: nothing is run."""

import re
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton

from bitplan.kernels.gpu.layout import PANEL

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TENSOR = re.compile(r"(U?[HQ]?[HG]?MMA|UTC\w*MMA)\b|v_s?mfma")
INTEGER = re.compile(
    r"LOP3|SHF|IADD3|PRMT|LEA|SEL|IMNMX|VI|ISETP"
    r"|v_(and|or|xor|perm|lsh|ashr|add3?_u|sub_u|mul_lo|mad_u|bfe|cndmask|cmp)"
)
WIDTHS = {"U8": 8, "U16": 16, "64": 64, "128": 128}
DWORDS = {"": 32, "x2": 64, "x3": 96, "x4": 128}
LOAD = re.compile(r"LDG(STS)?\b|UTMALDG|(global|buffer)_load")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a multiprocessor of a device holds, and its kernels may take of it."""

    registers: int
    granule: int
    threads: int
    shared: int
    shared_of_program: int
    programs: int = 32


# Registers of 32 bits and bytes: CUDA C++ Programming Guide, compute capabilities 8.0, 9.0, 10.0
# and 12.0; CDNA 3 instruction set, where each of 4 SIMD units has 512 registers a lane, vector and
# accumulation registers together, and 8 waves at most.
PARTS = {
    "sm_80": Part(
        registers=65536, granule=8, threads=2048, shared=164 << 10, shared_of_program=163 << 10
    ),
    "sm_90": Part(
        registers=65536, granule=8, threads=2048, shared=228 << 10, shared_of_program=227 << 10
    ),
    "sm_100": Part(
        registers=65536, granule=8, threads=2048, shared=228 << 10, shared_of_program=227 << 10
    ),
    "sm_120": Part(
        registers=65536, granule=8, threads=1536, shared=100 << 10, shared_of_program=99 << 10
    ),
    "gfx942": Part(
        registers=131072, granule=8, threads=2048, shared=64 << 10, shared_of_program=64 << 10
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one kernel: registers of a thread, bytes, and what its loop executes for a panel.

    `instructions`, `integer` and `tensor` are executed by each lane for each weight, on average;
    `loads` counts a thread's loads from global memory in the loop by their bits.
    """

    registers: int
    spilled: int
    local_bytes: int
    shared_bytes: int
    warps_resident: int
    instructions: float
    integer: float
    tensor: float
    loads: dict[str, int]


def cost(
    kernel: Any, target: str, rows: int, panel: int = PANEL, *, columns: int | None = None
) -> Cost:
    """Read it from a kernel of programs with so many rows of a weight, and columns of a panel.

    Where no loop reads memory all is read instead, of `columns` if they are given.
    """
    cuda = target.startswith("sm_")
    registers, spilled, local, text = (_cuda if cuda else _amd)(kernel)
    loop, is_whole = _loop(text)
    warp = 32 if cuda else 64
    threads = kernel.metadata.num_warps * warp
    weights = rows * (columns if columns and is_whole else panel) / threads
    tensor = sum(bool(TENSOR.match(name)) for name in loop)
    integer = sum(bool(INTEGER.match(name)) for name in loop)
    return Cost(
        registers=registers,
        spilled=spilled,
        local_bytes=local,
        shared_bytes=kernel.metadata.shared,
        warps_resident=_resident(PARTS[target], registers, threads, kernel.metadata.shared) // warp,
        instructions=round(len(loop) / weights, 3),
        integer=round(integer / weights, 3),
        tensor=round(tensor / weights, 3),
        loads=dict(sorted(_loads(loop).items())),
    )


def whole_cost(kernel: Any, target: str) -> dict[str, int]:
    """What is told of a kernel whatever it computes: registers, bytes, and warps at once."""
    found = asdict(cost(kernel, target, 1))
    names = ("registers", "spilled", "local_bytes", "shared_bytes", "warps_resident")
    return {name: found[name] for name in names}


def _resident(part: Part, registers: int, threads: int, shared: int) -> int:
    """Threads that a multiprocessor holds at most."""
    each = -(-registers // part.granule) * part.granule * threads
    programs = min(part.registers // each, part.threads // threads, part.programs)
    return threads * (min(programs, part.shared // shared) if shared else programs)


def _cuda(kernel: Any) -> tuple[int, int, int, list[str]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        used = _run("cuobjdump", "-res-usage", str(path))
        text = _run("nvdisasm", "-c", str(path))
    found = {key: int(number) for key, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", used)}
    lines = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            lines.append(f"{label[1]}:")
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            lines.append(re.sub(r"^@!?U?P\w+\s+", "", instruction[1]))
    spilled = sum(line.startswith(("STL", "LDL")) for line in lines)
    return found["REG"], spilled, found["LOCAL"], lines


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _amd(kernel: Any) -> tuple[int, int, int, list[str]]:
    text = kernel.asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])  # pyright: ignore

    lines = []
    for line in text.splitlines():
        if label := re.match(r"(\.LBB\w+):", line):
            lines.append(f"{label[1]}:")
        elif instruction := re.match(r"\t([a-z]\w+.*)", line):
            lines.append(instruction[1])
    spilled = number("vgpr_spill_count") + number("sgpr_spill_count")
    registers = number("vgpr_count") + number("agpr_count")
    return registers, spilled, number("private_segment_fixed_size"), lines


def _loop(lines: list[str]) -> tuple[list[str], bool]:
    """The names of the instructions of the longest loop that loads; else all, and that it is so."""
    places, longest = {}, range(0)
    for place, line in enumerate(lines):
        if line.endswith(":"):
            places[line[:-1]] = place
        elif branch := re.match(r"(?:BRA|s_c?branch)\S*\s.*?(\.L\w+)", line):
            loop = range(places.get(branch[1], place), place + 1)
            if len(loop) > len(longest) and any(LOAD.match(lines[of]) for of in loop):
                longest = loop
    found = longest or range(len(lines))
    names = [lines[place].split()[0] for place in found if not lines[place].endswith(":")]
    # Neither empty ones nor AMD's scalar ones take a lane's time.
    names = [name for name in names if name != "NOP" and not name.startswith("s_")]
    return names, not longest


def _loads(loop: list[str]) -> Counter:
    widths: Counter[str] = Counter()
    for name in loop:
        if re.match(r"LDG(STS)?\b", name):
            widths[str(next((WIDTHS[n] for n in name.split(".")[1:] if n in WIDTHS), 32))] += 1
        elif dwords := re.match(r"global_load_dword(x\d)?", name):
            widths[str(DWORDS[dwords[1] or ""])] += 1
        elif re.match(r"global_load", name):
            widths["16"] += 1
    return widths
