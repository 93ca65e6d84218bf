"""Layers rendered one after another on what the compressed ones before them give, beside apart.

    python benchmarks/in_order.py [--plans 2.5 3.0 uniform-2 uniform-3 uniform-4] [--ways WAY ...]
        [--quantizer gptq] [--workdir DIR] [--out FILE]

The ground is that of `benchmarks/tuning.py`. The three ways, by what stands for H of a layer whose
inputs were x and are y once all before it is compressed, tokens weighted alike (w, the squared
gradient at the layer's output in the model as it was, tempered):

- `apart`: sum w x x', as `allocate` renders: layers know nothing of each other;
- `in_order`: sum w y y' (Frantar et al., 2023, GPTQ as published);
- `corrected`: the same, and the weight W becomes W + W C K^-1, C = sum (x - y) y' and K = sum y y',
  before it is rendered: that with which y gives most nearly what W gave of x (Li et al., 2025,
  GPTAQ). All tokens count alike there: few have most of the weight, and a fit to few holds for few.

Rows are kept in a file, a JSON object a line, and what is there is not measured again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from row_files import append, machine, rows_in
from torch import Tensor
from tuning import plan_of_name

from bitplan.compress import render
from bitplan.compress.curvature import Curvature
from bitplan.evaluate import compare, make_reference
from bitplan.models import Inputs, fetch, weight_of
from bitplan.models.chain import Call, Chain, find_chain
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.stages import measure_in
from bitplan.progress import quiet
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity import WholeModel
from bitplan.sensitivity.moments import MOMENTS
from bitplan.sensitivity.moments.covariance import tempered
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.sensitivity.watch import by_layer
from bitplan.sensitivity.winsorize import PRODUCT, factor, mean_squares
from plans import MENU, tokens_of

WAYS = ("apart", "in_order", "corrected")
BATCH = 4
"""Sequences that go through a block at once."""

Weights = Mapping[str, Tensor]
"""Of each layer what its tokens count [sequences, tokens]."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plans = ["2.5", "3.0", "uniform-2", "uniform-3", "uniform-4"]
    parser.add_argument("--plans", nargs="+", default=plans)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--quantizer", default="gptq")
    parser.add_argument("--workdir", type=Path, default=Path("bitplan-in-order"))
    parser.add_argument("--out", type=Path, default=Path("in_order.jsonl"))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    files = fetch()
    tokens = tokens_of(files)
    calibration = Inputs.of(tokens.calibration).ids
    assert calibration is not None
    settings = Settings(
        schemes=MENU,
        calibration=tokens,
        estimator="gradient_covariance",
        quantizer=args.quantizer,
        workdir=args.workdir,
    )
    workspace = Workspace.open(str(files.gguf), workdir=args.workdir)
    table, meter, _ = measure_in(workspace, settings, quiet)
    model, layers = workspace.model, workspace.layers
    reference = make_reference(model, tokens.held_out)
    weights = token_weights(workspace, calibration) if set(args.ways) - {"apart"} else {}
    known = {(row["plan"], row["way"], row["quantizer"]) for row in rows_in(args.out)}
    originals = {layer.name: weight_of(model, layer).clone() for layer in layers}
    for name in args.plans:
        schemes = plan_of_name(name, table).schemes
        for way in args.ways:
            if (name, way, args.quantizer) in known:
                continue
            start = time.process_time()
            if way == "apart":
                for layer in layers:
                    [packed] = meter.packed(layer, [schemes[layer.name]])
                    weight_of(model, layer).copy_(packed.decode())
            else:
                Renderer(
                    workspace=workspace,
                    inputs=calibration,
                    weights=weights,
                    quantizer=args.quantizer,
                    corrects=way == "corrected",
                ).run(schemes)
            seconds = time.process_time() - start
            found = compare(model, reference)
            row = {"plan": name, "way": way, "quantizer": args.quantizer, "kl": found.mean}
            row |= {"kl_error": found.standard_error, "perplexity": found.perplexity}
            append(args.out, row | {"seconds": seconds, "machine": machine()})
            print(json.dumps(row), flush=True)
            for layer in layers:
                weight_of(model, layer).copy_(originals[layer.name])


def token_weights(workspace: Workspace, inputs: Tensor) -> dict[str, Tensor]:
    """The mean squared gradient at each token of each layer's output, weighed down as in H."""
    layers = [layer for layer in workspace.layers if layer.block is not None]
    squares: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    means: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for _, seen in WholeModel(model=workspace.model, tokens=inputs).run(layers):
        assert seen is not None
        for name, [one] in by_layer(seen).items():
            squares[name].append(
                tempered(one.gradients.float().square().mean(1), one.inputs.float())
            )
            means[name].append(mean_squares([one])[PRODUCT])
    found = {}
    for name, each in squares.items():
        of_all = torch.stack(means[name])
        shares = [factor(of_all, sequence) for sequence in range(len(each))]
        found[name] = torch.stack(each) * torch.tensor(shares)[:, None]
    return found


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders the blocks' layers one after another, into the model."""

    workspace: Workspace
    inputs: Tensor  # [sequences, length]
    weights: Weights
    quantizer: str
    corrects: bool

    def run(self, schemes: Mapping[str, Scheme]) -> None:
        """All blocks, from the first to the last."""
        model: Any = self.workspace.model
        parts = self.inputs.split(BATCH)
        runs: list[Callable[[], Tensor]] = [
            lambda part=part: model(part, use_cache=False).logits for part in parts
        ]
        chain = find_chain(model, runs[0])
        begun = [chain.begin(run) for run in runs]
        calls = [found[1] for found in begun]
        dense = [found[0] for found in begun]  # hidden states of the model as it was
        ours = list(dense)
        for index in range(len(chain.blocks)):
            of_block = [one for one in self.workspace.layers if chain.place(one.name) == index]
            before, after = self._through(chain, index, dense, calls, of_block)
            for group in _groups(before):
                some = [layer for layer in of_block if layer.name in group]
                now, _ = self._through(chain, index, ours, calls, some[:1])
                for layer in some:
                    inputs = before[layer.name], now[some[0].name]
                    self._render(layer, schemes[layer.name], *inputs)
            _, ours = self._through(chain, index, ours, calls, [])
            dense = after

    def _through(
        self,
        chain: Chain,
        index: int,
        hidden: Sequence[Tensor],
        calls: Sequence[Sequence[Call]],
        layers: Sequence[Layer],
    ) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """The inputs [batch, tokens, in] of some layers, and the block's outputs."""
        seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        with _seen(chain, seen):
            after = [
                chain.block(index, one, call[index])
                for one, call in zip(hidden, calls, strict=True)
            ]
        return seen, after

    def _render(
        self, layer: Layer, scheme: Scheme, before: Sequence[Tensor], now: Sequence[Tensor]
    ) -> None:
        moment, weights = MOMENTS["covariance"], self.weights[layer.name]
        sums, inputs = moment.zeros(layer, len(weights)), torch.cat(list(now)).float()
        for sequence, (each, weight) in enumerate(zip(inputs, weights, strict=True)):
            generator = torch.Generator().manual_seed(sequence)
            root = weight.sqrt()[:, None]
            moment.add(sums, each, root, sequence=sequence, generator=generator)
        target = weight_of(self.workspace.model, layer).float()
        if self.corrects:
            target = target + target @ _gone(torch.cat(list(before)).float(), inputs)
        found = render(
            target,
            [scheme],
            quantizer=self.quantizer,
            covariance=sums["covariance"],
            shrinkage=shrinkage(sums),
        )
        weight_of(self.workspace.model, layer).copy_(found[scheme].decode())


def _gone(before: Tensor, now: Tensor) -> Tensor:
    """What of each input is lost, by what is there: C H^-1, all tokens alike."""
    y, lost = now.flatten(0, 1), (before - now).flatten(0, 1)
    matrix = Curvature(covariance=y.mT @ y).matrix
    mean = y.square().sum(0).mean()
    return torch.linalg.solve(matrix, (y.mT @ lost) / mean).mT


@contextmanager
def _seen(chain: Chain, found: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Within the block the inputs of the layers of these names are gathered."""
    hooks = []
    for name, inputs in found.items():

        def see(_: Any, args: tuple[Tensor, ...], inputs: list[Tensor] = inputs) -> None:
            inputs.append(args[0])

        hooks.append(chain.model.get_submodule(name).register_forward_pre_hook(see))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _groups(seen: Mapping[str, Sequence[Tensor]]) -> list[list[str]]:
    """Layers that read the same, in the order in which the block reads them."""
    groups: dict[int, list[str]] = {}
    for name, inputs in seen.items():
        groups.setdefault(inputs[0].data_ptr(), []).append(name)
    return list(groups.values())


if __name__ == "__main__":
    main()
