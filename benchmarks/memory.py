"""Peak memory of measuring Llama-shaped checkpoints larger than it, by the number of blocks.

Makes checkpoints of random weights in the widths of Llama-3.1-8B (436 MB a block, 1.05 GB each for
embedding and head; 32 blocks are the whole model, 16 GB), measures each in a process of its own,
block by block, on 4 x 64 random tokens, and tells the most that was resident, mapped files
included. The bound is 3 GB over twice the size of one block.

By default each weight is rendered by rounding and judged by the input covariances, which takes
minutes. What `measure` does by itself takes longer:

    python benchmarks/memory.py [--blocks 8 16 32] [--folder DIR]
    python benchmarks/memory.py --blocks 2 --quantizer gptq

`--hidden 1024` makes the same model with all widths a quarter: a sixteenth of the bytes and of the
time, so that the number of blocks alone can be varied in minutes.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

HIDDEN, HEADS, KEY_HEADS, VOCABULARY = 4096, 32, 8, 128_256

MEASURING = """
import json, sys, time
from pathlib import Path
import torch
from bitplan import measure
from bitplan.calibration import TokenSets

folder, workdir, quantizer, estimator, menu, through = sys.argv[1:]
drawn = torch.Generator().manual_seed(0)
tokens = torch.randint(0, 128_256, (6, 64), generator=drawn)
sets = TokenSets(
    calibration=tokens[:4], search=tokens[4:5], held_out=tokens[5:], source="random tokens"
)
stages = {}


def told(stage, done, total):
    now = time.monotonic()
    stages.setdefault(stage, [now, now])[1] = now


table = measure(
    folder,
    calibration=sets,
    schemes=menu.split(","),
    quantizer=quantizer,
    estimator=estimator,
    through=through,
    workdir=workdir,
    progress=told,
)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(
    json.dumps(
        {
            "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
            "seconds": {name: round(last - first) for name, (first, last) in stages.items()},
            "layers": len(table.rows),
        }
    )
)
"""


def inner(hidden: int) -> int:
    """Width of the MLP: 14,336 of 4,096."""
    return hidden * 7 // 2


def block_bytes(hidden: int) -> int:
    """Of the matrices of one block in bfloat16."""
    shapes = block_shapes("", hidden).values()
    return sum(2 * math.prod(shape) for shape in shapes if len(shape) == 2)


def bound_bytes(hidden: int) -> int:
    """3 GB over two blocks."""
    return 2 * block_bytes(hidden) + 3 * 10**9


def make_checkpoint(folder: Path, blocks: int, hidden: int) -> None:
    """A file for each block, written before the next is drawn."""
    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner(hidden),
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "embed_tokens": {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    }
    for index in range(blocks):
        shapes[f"block-{index}"] = block_shapes(f"model.layers.{index}.", hidden)
    shapes["head"] = {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}
    places, total = {}, 0
    for number, (name, tensors) in enumerate(shapes.items()):
        drawn = {key: random_weight(shape, number) for key, shape in tensors.items()}
        save_file(drawn, folder / f"{name}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(drawn, f"{name}.safetensors")
        total += sum(tensor.nbytes for tensor in drawn.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def block_shapes(prefix: str, hidden: int) -> dict[str, tuple[int, ...]]:
    narrow, wide = hidden * KEY_HEADS // HEADS, inner(hidden)
    return {
        f"{prefix}input_layernorm.weight": (hidden,),
        f"{prefix}self_attn.q_proj.weight": (hidden, hidden),
        f"{prefix}self_attn.k_proj.weight": (narrow, hidden),
        f"{prefix}self_attn.v_proj.weight": (narrow, hidden),
        f"{prefix}self_attn.o_proj.weight": (hidden, hidden),
        f"{prefix}post_attention_layernorm.weight": (hidden,),
        f"{prefix}mlp.gate_proj.weight": (wide, hidden),
        f"{prefix}mlp.up_proj.weight": (wide, hidden),
        f"{prefix}mlp.down_proj.weight": (hidden, wide),
    }


def random_weight(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(shape, dtype=torch.bfloat16)
    for rows in weight.split(4096):
        rows.copy_(torch.randn(rows.shape, generator=generator).mul_(0.02))
    return weight


def run(folder: Path, blocks: int, arguments: argparse.Namespace) -> dict:
    start = time.monotonic()
    model = folder / f"blocks-{blocks}"
    make_checkpoint(model, blocks, arguments.hidden)
    made = time.monotonic()
    settings = [arguments.quantizer, arguments.estimator, arguments.schemes, arguments.through]
    work = str(folder / f"work-{blocks}")
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, str(model), work, *settings],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "blocks": blocks,
        "checkpoint_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        **found,
        "making_s": round(made - start),
        "measuring_s": round(time.monotonic() - made),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="a multiple of 32")
    parser.add_argument("--folder", type=Path, help="default: a temporary folder")
    parser.add_argument("--quantizer", default="rtn")
    parser.add_argument("--estimator", default="gradient_covariance")
    parser.add_argument("--schemes", default="int4g128")
    parser.add_argument("--through", default="blocks")
    arguments = parser.parse_args()
    rows, bound = [], bound_bytes(arguments.hidden)
    for blocks in arguments.blocks:
        # One checkpoint at a time, and gone when it is measured: 32 blocks and their statistics
        # take 16 GB and 40 GB.
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bitplan-memory-") as folder:
            rows.append(run(Path(folder), blocks, arguments))
        row = rows[-1]
        print(
            f"{blocks:3} blocks, {row['checkpoint_bytes'] / 1e9:5.1f} GB: "
            f"{row['peak_bytes'] / 1e9:.2f} GB resident at most (bound {bound / 1e9:.2f}), "
            f"{row['measuring_s']} s",
            flush=True,
        )
    report = {"block_bytes": block_bytes(arguments.hidden), "bound_bytes": bound, "rows": rows}
    print(json.dumps(report | {"torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
