"""SmolLM2-135M as peers' quantizers render it, judged beside ours on the same tokens.

    python benchmarks/compress_peers.py [--arms NAME ...] [--workdir DIR] [--out FILE]

Peers are installed with pip into environments of their own in the work folder. They read the
calibration tokens that ours read, render all linears but the head, and give them back dequantized;
embeddings and norms stay as they are. What is not named here is a peer's default. KL and
perplexity are of held-out tokens, as in `benchmarks/compress.py quality`, whose rows of our
quantizers can be kept in the same file. A scale and an offset for every group are what ours have,
too. Peers leave out weights and keep the rest as it is; ours beside them has its rest in 8 bits.
Seconds of a peer are of all that it does, calibration included.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compress_quality import COUNTS, key_of, restored, show
from peer_environment import (
    PeerError,
    plain_folder,
    python_of,
    run,
    write_texts,
    write_tokens,
)
from row_files import Row, append, machine, rows_in
from safetensors.torch import load_file

from bitplan.calibration import TokenSets
from bitplan.evaluate import compare, make_reference
from bitplan.models import demo_documents, fetch, load_tokenizer, weight_of
from bitplan.pipeline import Workspace
from bitplan.schema import Kind

HERE = Path(__file__).parent
PACKAGES = {
    "llmcompressor": ("torch==2.13.0", "llmcompressor==0.14.0.1"),
    "autoround": ("torch==2.13.0", "auto-round==0.16.1"),
}
INTEGERS = ((4, 64), (3, 64), (2, 64))
"""Bits and groups; llm-compressor takes none that does not divide the columns, 576 and 1536."""
SPARSE = {"int8g64+50%": "0:0", "int8g64+2:4": "2:4"}


def _arms() -> Iterator[tuple[str, str, str, tuple[object, ...]]]:
    """By what name ours is called, who renders, the peer, and how it is asked."""
    for peer, method, asked in (
        ("llmcompressor", "gptq", ("--method", "gptq")),
        ("autoround", "tuned", ()),
    ):
        for bits, group in INTEGERS:
            options = (*asked, "--bits", bits, "--group", group)
            yield f"int{bits}g{group}", f"{peer} {method}", peer, options
    for method in ("sparsegpt", "wanda"):
        for scheme, structure in SPARSE.items():
            options = ("--method", method, "--structure", structure)
            yield scheme, f"llmcompressor {method}", "llmcompressor", options


ARMS = sorted({quantizer for _, quantizer, *_ in _arms()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--schemes", nargs="+", help="those of ours that are compared with")
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-compress-peers"))
    parser.add_argument("--out", type=Path, default=Path("compress_quality.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    files = fetch()
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir / "work")
    tokens = workspace.tokens(demo_documents(files), counts=COUNTS, seed=0)
    layers = [layer for layer in workspace.layers if layer.kind is Kind.LINEAR]
    reference = make_reference(workspace.model, tokens.held_out)
    shared = {"layers": ["*"], "judge": "kl"}
    known = {key_of(row) for row in rows_in(args.out)}
    for scheme, quantizer, peer, options in _arms():
        row: Row = shared | {"scheme": scheme, "quantizer": quantizer}
        wanted = quantizer in args.arms and scheme in (args.schemes or (scheme,))
        if not wanted or key_of(row) in known:
            continue
        try:
            weights, seconds = _rendered(
                str(files.gguf), tokens, peer, (scheme, quantizer), options, args.workdir.resolve()
            )
        except PeerError as error:
            print(f"{quantizer}, {scheme}: {error}", flush=True)
            continue
        with restored(workspace.model, layers):
            for layer in layers:
                weight_of(workspace.model, layer).copy_(weights[f"{layer.name}.weight"])
            found = compare(workspace.model, reference)
        row |= {"kl": found.mean, "kl_error": found.standard_error, "perplexity": found.perplexity}
        append(args.out, row | {"render_s": seconds, "machine": machine()})
    show([row for row in rows_in(args.out) if {**row, **shared} == row])


def _rendered(
    source: str,
    tokens: TokenSets,
    peer: str,
    of: tuple[str, str],
    options: tuple[object, ...],
    folder: Path,
) -> tuple[dict[str, torch.Tensor], float]:
    """The peer's weights and the seconds that it took, made once. Raises `PeerError`."""
    out = folder / f"{'-'.join(of).replace(' ', '-').replace(':', '-')}.safetensors"
    clock = out.with_suffix(".json")
    if not clock.is_file():
        model = plain_folder(source, folder / "model")
        python = python_of(PACKAGES[peer], folder / peer)
        read, more = _READ[peer](source, tokens, folder)
        command = [python, HERE / f"peer_{peer}.py", model, read, out, *options, *more]
        print(f"  {' in '.join(reversed(of))}", flush=True)
        start = time.perf_counter()
        run(command, out.with_suffix(".log"))
        clock.write_text(json.dumps(time.perf_counter() - start))
    return load_file(out), json.loads(clock.read_text())


def _tokens(source: str, tokens: TokenSets, folder: Path) -> tuple[Path, tuple[object, ...]]:
    return write_tokens(_ids(tokens), folder / "tokens.safetensors"), ()


def _texts(source: str, tokens: TokenSets, folder: Path) -> tuple[Path, tuple[object, ...]]:
    ids = _ids(tokens)
    path = write_texts(ids, load_tokenizer(source), folder / "texts.jsonl")
    return path, ("--sequences", len(ids), "--length", ids.shape[1])


def _ids(tokens: TokenSets) -> torch.Tensor:
    ids: Any = tokens.calibration
    return ids if isinstance(ids, torch.Tensor) else ids.ids


_READ: dict[str, Callable[[str, TokenSets, Path], tuple[Path, tuple[object, ...]]]] = {
    "llmcompressor": _tokens,
    "autoround": _texts,
}


if __name__ == "__main__":
    main()
