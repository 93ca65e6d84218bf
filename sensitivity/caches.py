"""What rounding cached keys and values costs: all schemes from one forward and backward pass.

For a vector k_t that attention caches for token t, with g_t the gradient of the summed next-token
loss there and d_t its error as rounded,

    1/2 sum_t sum_i g_ti^2 d_ti^2 / T

estimates the increase of KL in nats per token: the diagonal of the empirical Fisher information at
the vector, token by token (compare LQ-LoRA, Guo et al., 2023, for weights).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import ModelError
from bitplan.footprint import scheme_bytes
from bitplan.formats import round_rows
from bitplan.models import eager_experts, hooked_caches, wide_matmuls
from bitplan.progress import Progress, quiet
from bitplan.schema import Cost, Layer, Row, Scheme
from bitplan.sensitivity.loss_files import LossFiles
from bitplan.sensitivity.objective import objective

BATCH_TOKENS = 512
"""Tokens that go through the model at once: bounds the memory that activations take."""

SAVE_EVERY_S = 60.0

Menu = Mapping[Layer, Sequence[Scheme]]


def cache_rows(
    model: nn.Module,
    schemes: Menu,
    tokens: Int[Tensor, "sequences length"],
    folder: Path,
    *,
    progress: Progress = quiet,
) -> tuple[Row, ...]:
    """A row for each layer's keys and values, with its schemes in the order given.

    What was found of a scheme is kept in `folder` batch by batch: an interrupted run goes on from
    there, and another scheme measures only itself. Raises `ModelError` for a loss or gradient that
    is not finite, and for keys and values of another shape than the layers say.
    """
    losses = LossFiles(folder)
    step = max(1, BATCH_TOKENS // tokens.shape[1])
    saved_at = time.monotonic()
    try:
        for start in range(0, len(tokens), step):
            progress("cache", start, len(tokens))
            missing = {
                layer: todo
                for layer, menu in schemes.items()
                if (todo := [s for s in menu if len(losses.of(layer, s)) <= start])
            }
            if missing:
                _add_batch(model, missing, tokens[start : start + step], start, losses)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                losses.write()
                saved_at = time.monotonic()
    finally:
        losses.write()
    progress("cache", len(tokens), len(tokens))
    return tuple(
        Row(layer=layer, costs=tuple(_cost(layer, s, losses.of(layer, s)) for s in menu))
        for layer, menu in schemes.items()
    )


def _cost(layer: Layer, scheme: Scheme, losses: Sequence[float]) -> Cost:
    loss, count = float(np.mean(losses)), len(losses)
    return Cost(
        scheme=scheme,
        bytes=scheme_bytes(layer.shape, scheme),
        loss=loss,
        standard_error=float(np.std(losses, ddof=1) / count**0.5) if count > 1 else loss,
    )


def _add_batch(model: nn.Module, menu: Menu, tokens: Tensor, start: int, losses: LossFiles) -> None:
    read = _read_states(model, menu, tokens, start)
    for layer, schemes in menu.items():
        rows, gradients = read[layer.name]
        for scheme in schemes:
            error = round_rows(rows, scheme).float() - rows.float()
            losses.add(layer, scheme, start, _loss(error, gradients))


def _read_states(
    model: nn.Module, layers: Iterable[Layer], tokens: Tensor, start: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of keys and values, and the gradients of the summed loss there."""
    widths = {layer.name: layer.shape[-1] for layer in layers}
    read: dict[str, Tensor] = {}

    def watch(name: str, rows: Tensor) -> Tensor:
        if name not in widths:
            return rows
        _check_width(name, rows.shape[-1], widths[name])
        # A copy has the gradient of what attention reads, and of that alone.
        copy = rows.clone()
        read[name] = copy if copy.requires_grad else copy.requires_grad_()
        return read[name]

    with (
        torch.enable_grad(),
        eager_experts(model),
        hooked_caches(model, watch),
        wide_matmuls(),
    ):
        loss = objective(model, tokens)
        if missing := widths.keys() - read.keys():
            raise ModelError(
                f"{type(model).__name__} hands no keys and values to its cache at {min(missing)}. "
                "Leave the cache out of this model's budget: context 0."
            )
        _check_finite(loss, f"The loss on calibration sequences from {start}")
        slopes = torch.autograd.grad(loss, list(read.values()), materialize_grads=True)
    for name, slope in zip(read, slopes, strict=True):
        _check_finite(slope, f"A gradient at {name}, calibration sequences from {start},")
    return {name: (read[name].detach(), slope) for name, slope in zip(read, slopes, strict=True)}


def _loss(
    error: Float[Tensor, "sequences tokens width"],
    gradients: Float[Tensor, "sequences tokens width"],
) -> list[float]:
    """Nats per token, by sequence."""
    weighted = error.mul_(gradients.float()).square_()
    return (weighted.sum((1, 2), dtype=torch.float64) / (2 * error.shape[1])).tolist()


def _check_width(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ModelError(
            f"{name} caches {found} numbers a token, where the model's config says {wanted}. "
            "Leave the cache out of this model's budget: context 0."
        )


def _check_finite(values: Tensor, name: str) -> None:
    if not values.isfinite().all():
        raise ModelError(
            f"{name} is not finite. Check the model's weights and the tokens, or load the model in "
            "a wider dtype: bfloat16 in place of float16, or float32."
        )
