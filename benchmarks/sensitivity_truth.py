"""What benchmarks/sensitivity.py measures estimators by: renderings, and the KL of single swaps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from bitplan.calibration import TokenSets, tokenize
from bitplan.compress import Store
from bitplan.models import demo_documents, fetch, load_tokenizer
from bitplan.pipeline import Settings, Workspace
from bitplan.pipeline.stages import measure_in
from bitplan.progress import Progress
from bitplan.schema import CostTable, Layer, Scheme
from bitplan.sensitivity import MODEL_ESTIMATORS, Bench, Shards, WholeModel
from plans import tokens_of

WIDTHS = (2, 3, 4, 5, 6, 8)
RANGES: dict[str, Callable[[float], bool]] = {
    "all": lambda bits: True,
    "<= 3": lambda bits: bits <= 3,
    ">= 4": lambda bits: bits >= 4,
    "4": lambda bits: bits == 4,
}

Losses = dict[tuple[str, str], float]  # layer, scheme


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all estimators stand on: the model, its texts, and its layers rendered."""

    workspace: Workspace
    sets: TokenSets
    other: Tensor  # calibration on text that no weight was rendered on
    truth_tokens: Tensor
    table: CostTable
    store: Store

    @classmethod
    def of(cls, workdir: str) -> "Ground":
        """All of it, from the work folder where it is there."""
        files = fetch()
        sets = tokens_of(files)
        documents, tokenizer = demo_documents(files), load_tokenizer(str(files.gguf))
        half = len(documents) // 2
        menu = [*(f"int{bits}g64" for bits in WIDTHS), "bf16"]
        workspace = Workspace.open(str(files.gguf), workdir=workdir, dtype="float32")
        settings = Settings(schemes=menu, calibration=sets, workdir=workdir, dtype="float32")
        table, meter, _ = measure_in(workspace, settings, told())
        return cls(
            workspace=workspace,
            sets=sets,
            other=tokenize(documents[:half], tokenizer, 64, 256)[32:],
            truth_tokens=tokenize(documents[half:], tokenizer, 44, 256)[40:].reshape(8, 128),
            table=table,
            store=meter.store,
        )

    @property
    def schemes(self) -> dict[Layer, list[Scheme]]:
        """The integer schemes of each layer."""
        return {
            row.layer: [c.scheme for c in row.costs if not c.scheme.is_float]
            for row in self.table.rows
        }

    def bench(self, tokens: Tensor, labels: str) -> Bench:
        """What an estimator that looks at the model works with."""
        model = self.workspace.model
        return Bench(
            model=model,
            tokens=tokens,
            through=WholeModel(model=model, tokens=tokens, labels=labels),
            decode=self.decode,
            progress=told(),
        )

    def decode(self, layer: Layer, scheme: Scheme) -> Tensor:
        """The weight as it was rendered."""
        packed = self.store.get(layer, scheme)
        assert packed is not None
        return packed.decode(torch.float32)


def truth_of(ground: Ground) -> dict[tuple[str, str], np.ndarray]:
    """The measured KL of every swap, by sequence."""
    truth = _swaps(ground, "first", ground.truth_tokens[:4], WIDTHS)
    for key, values in _swaps(ground, "second", ground.truth_tokens[4:], (4,)).items():
        truth[key] = np.append(truth[key], values)
    return truth


def _swaps(
    ground: Ground, half: str, tokens: Tensor, widths: Sequence[int]
) -> dict[tuple[str, str], np.ndarray]:
    shards = Shards(folder=ground.store.folder / "truth" / half)
    wanted = {
        layer: [scheme for scheme in schemes if scheme.bits in widths]
        for layer, schemes in ground.schemes.items()
    }
    missing = {
        layer: lacking
        for layer, schemes in wanted.items()
        if (lacking := [scheme for scheme in schemes if shards.get(layer, scheme) is None])
    }
    if missing:
        swaps = MODEL_ESTIMATORS["single_swaps"]
        for layer, losses in swaps.judge(ground.bench(tokens, "data"), missing):
            for scheme, found in losses.items():
                shards.put(layer, scheme, found)
    found = {}
    for layer, schemes in wanted.items():
        for scheme in schemes:
            losses = shards.get(layer, scheme)
            assert losses is not None
            found[layer.name, str(scheme)] = losses.by_sequence
    return found


def correlations(truth: Losses, losses: Losses) -> dict[str, dict[str, float]]:
    """Spearman and Kendall of each range of bits."""
    rows = {}
    for name, is_in in RANGES.items():
        keys = [key for key in truth if is_in(Scheme.parse(key[1]).bits)]
        pair = np.array([[truth[key], losses[key]] for key in keys]).T
        spearman: Any = spearmanr(*pair)
        kendall: Any = kendalltau(*pair)
        rows[name] = {"spearman": float(spearman[0]), "kendall": float(kendall[0])}
    return rows


def told() -> Progress:
    last = [time.monotonic()]

    def tell(stage: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 30:
            print(f"{stage}: {done:,} of {total:,}", flush=True)
            last[0] = time.monotonic()

    return tell
