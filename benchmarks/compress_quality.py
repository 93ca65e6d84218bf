"""How well quantizers render a model's linears: `benchmarks/compress.py quality`."""

import argparse
import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from itertools import product
from typing import Any

import torch
from row_files import Row, append, machine, rows_in
from torch import Tensor

from bitplan.apply import pack_layers
from bitplan.calibration import Counts, TokenSets, tokens_digest
from bitplan.compress import NONE, QUANTIZERS, render
from bitplan.evaluate import compare, make_reference
from bitplan.footprint import scheme_bytes
from bitplan.formats import Packed
from bitplan.models import demo_documents, fetch, load_model, load_tokenizer, weight_of
from bitplan.pipeline import Workspace, folded_workspace
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.tune import tune

SCHEMES = ["int4g128", "int3g128", "int2g64", "int4g64+50%", "int4g64+2:4"]
COUNTS = Counts(calibration=32, search=8, held_out=16, length=256)

Arm = Callable[[Tensor, Scheme, Tensor, Tensor], Tensor]
"""(a weight, a scheme, H, how far to draw it to its diagonal) -> what the weight becomes"""


def by_ours(
    quantizer: str, weight: Tensor, scheme: Scheme, covariance: Tensor, share: Tensor
) -> Tensor:
    """The weight as one of our quantizers renders it."""
    found = render(weight, [scheme], quantizer=quantizer, covariance=covariance, shrinkage=share)
    return found[scheme].decode()


ARMS: dict[str, Arm] = {name: partial(by_ours, name) for name in QUANTIZERS}


def run_quality(args: argparse.Namespace) -> None:
    shared = {"layers": sorted(args.layers), "judge": args.judge, "untied": args.untie}
    if args.tune_epochs:
        shared |= {"tune_epochs": args.tune_epochs}
    names = ("transform", "scheme", "quantizer")
    arms = product(args.transforms, args.schemes, args.quantizers)
    asked = [shared | dict(zip(names, arm, strict=True)) for arm in arms]
    known = {key_of(row) for row in rows_in(args.out)}
    for transform in args.transforms:
        rows = [row for row in asked if row["transform"] == transform and key_of(row) not in known]
        if rows:
            _measure(args, transform, rows)
    keys = {key_of(row) for row in asked}
    show([row for row in rows_in(args.out) if key_of(row) in keys])


def _measure(args: argparse.Namespace, transform: str, rows: list[Row]) -> None:
    """Measure rows of one transform, one after another."""
    workspace, tokens = _open(args)
    reference = make_reference(workspace.model, tokens.held_out) if args.judge == "kl" else None
    workspace = folded_workspace(
        workspace,
        transform,
        calibration_digest=tokens_digest(tokens.calibration),
        tokens_of=lambda: tokens,
        seed=0,
    )
    meter = workspace.meter(tokens, estimator="gradient_covariance", quantizer="gptq")
    layers = [
        layer
        for layer in workspace.layers
        if layer.kind is Kind.LINEAR
        and layer.name != "lm_head"
        and any(fnmatch(layer.name, one) for one in args.layers)
    ]
    for row in rows:
        scheme, arm = Scheme.parse(row["scheme"]), ARMS[row["quantizer"]]
        size = sum(scheme_bytes(layer.shape, scheme) for layer in layers)
        row |= {"bits": 8 * size / sum(layer.parameters for layer in layers)}
        if args.tune_epochs:
            schemes = dict.fromkeys(layers, scheme)
            found = row | _tuned(workspace.model, schemes, meter, tokens, reference, args)
            append(args.out, found | {"machine": machine()})
            continue
        with restored(workspace.model, layers):
            found = row | _losses(workspace.model, layers, meter, scheme, arm)
            if reference is not None:
                one = compare(workspace.model, reference)
                found |= {"kl": one.mean, "kl_error": one.standard_error}
                found |= {"perplexity": one.perplexity}
        append(args.out, found | {"machine": machine()})


def _tuned(
    model: Any,
    schemes: dict[Layer, Scheme],
    meter: Any,
    tokens: TokenSets,
    held_out: Any,
    args: argparse.Namespace,
) -> Row:
    """KL and perplexity of a copy that is packed and tuned, and the seconds that both took."""
    lessons, judged = (make_reference(model, one) for one in (tokens.calibration, tokens.search))
    (quantizer,) = args.quantizers
    start = time.process_time()

    def packed_of(layer: Layer, scheme: Scheme) -> Packed:
        statistics_ = meter.statistics["data"].completed(layer, ("covariance",))
        sums, weight = statistics_["covariance"], weight_of(model, layer).float()
        covariance, share = sums["covariance"].float(), shrinkage(sums)
        found = render(
            weight, [scheme], quantizer=quantizer, covariance=covariance, shrinkage=share
        )
        return found[scheme]

    packed = pack_layers(copy.deepcopy(model), schemes, packed_of)
    tune(packed, lessons, judged, epochs=args.tune_epochs)
    seconds = time.process_time() - start
    one = compare(packed, held_out)
    found = {"kl": one.mean, "kl_error": one.standard_error, "perplexity": one.perplexity}
    return found | {"render_s": seconds, "count": len(schemes)}


def _open(args: argparse.Namespace) -> tuple[Workspace, TokenSets]:
    files = fetch()
    source = str(files.gguf)
    if args.untie:
        model: Any = load_model(source)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), False)
        model.config.tie_word_embeddings = False
        tokenizer = load_tokenizer(source)
        workspace = Workspace.open(model, workdir=args.workdir, tokenizer=tokenizer)
    else:
        workspace = Workspace.open(source, workdir=args.workdir)
    return workspace, workspace.tokens(demo_documents(files), counts=COUNTS, seed=0)


def _losses(model: Any, layers: list[Layer], meter: Any, scheme: Scheme, arm: Arm) -> Row:
    """Put each layer's weight into the model as an arm makes it, and say what that should cost."""
    loss = of_zeros = seconds = 0.0
    for layer in layers:
        statistics_ = meter.statistics["data"].completed(layer, ("covariance",))
        sums, weight = statistics_["covariance"], weight_of(model, layer)
        covariance, original = sums["covariance"].float(), weight.float()
        start = time.process_time()
        found = arm(original, scheme, covariance, shrinkage(sums))
        seconds += time.process_time() - start
        twice = 2 * statistics_.tokens
        loss += _form(found - original, covariance) / twice
        of_zeros += _form(original, covariance) / twice
        weight.copy_(found)
    return {"loss": loss, "share": loss / of_zeros, "render_s": seconds, "count": len(layers)}


def _form(change: Tensor, covariance: Tensor) -> float:
    return ((change @ covariance) * change).sum().item()


@contextlib.contextmanager
def restored(model: Any, layers: list[Layer]) -> Iterator[None]:
    """Whatever is done to the weights is undone."""
    weights = [weight_of(model, layer) for layer in layers]
    originals = [weight.clone() for weight in weights]
    yield
    for weight, original in zip(weights, originals, strict=True):
        weight.copy_(original)


def key_of(row: Row) -> tuple[Any, ...]:
    transform = row.get("transform", NONE), row.get("untied", False), row.get("tune_epochs", 0)
    return (*transform, *(row[name] for name in ("scheme", "quantizer", "judge")), *row["layers"])


def show(rows: list[Row]) -> None:
    head = "| scheme | bits | quantizer | transform | loss | of zeros | s | KL | perplexity |\n"
    print(head + "|---" * 9 + "|")
    for row in rows:
        transform = row.get("transform", NONE) + (", untied" if row.get("untied") else "")
        bits = f"{row['bits']:.3f}" if "bits" in row else "–"
        tuned = f", tuned {row['tune_epochs']:g} epochs" if "tune_epochs" in row else ""
        cells = [row["scheme"], bits, row["quantizer"] + tuned, transform]
        cells += [f"{row[name]:.5f}" if name in row else "–" for name in ("loss", "share")]
        cells.append(f"{row['render_s']:.1f}")
        if "kl" in row:
            cells += [f"{row['kl']:.4f} ± {row['kl_error']:.4f}", f"{row['perplexity']:.2f}"]
        print(f"| {' | '.join(cells)} |")
