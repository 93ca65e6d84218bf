"""Why a layer has its scheme, in sentences."""

from bitplan.allocator.explanation import Move, RunnerUp

_NOT_BEST = "this is not the table's best plan"


def why(
    *,
    price: float,
    spare: int,
    only: bool,
    left_out: bool,
    larger: Move | None,
    smaller: Move | None,
    runner_up: RunnerUp | None,
    predicted_kl: float,
    is_best: bool,
) -> str:
    """The reasons for one layer's scheme.

    Args:
        price: the marginal price, nats per token and 10^9 bytes.
        spare: bytes of the budget that the plan leaves over.
        only: whether the layer may take no other scheme.
        left_out: whether it is left out.
        larger: the larger scheme that saves most for each byte.
        smaller: the smaller scheme that loses least for each byte.
        runner_up: the best plan with another scheme.
        predicted_kl: of the plan.
        is_best: whether no better plan of this budget is known.
    """
    if left_out:
        return "It is left out, with all of its sublayer."
    if only:
        return "It may take no other scheme."
    sentences = [
        _upwards(larger, price, spare),
        _downwards(smaller, price, is_best),
        _beside(runner_up, predicted_kl),
    ]
    return " ".join(sentences)


def _upwards(move: Move | None, price: float, spare: int) -> str:
    if move is None:
        return "No larger scheme loses less."
    start = (
        f"{move.to} would save {-move.loss:.3g} nats for {move.bytes:,} more bytes: "
        f"{move.nats_per_gb:.3g} nats per GB, "
    )
    if move.nats_per_gb <= price:
        return f"{start}no more than the {price:.3g} that a GB is worth at this budget."
    if move.bytes > spare:
        return (
            f"{start}more than the {price:.3g} that a GB is worth at this budget, but it does not "
            f"fit (bytes left over: {spare:,})."
        )
    return f"{start}and it would fit: {_NOT_BEST}."


def _downwards(move: Move | None, price: float, is_best: bool) -> str:
    if move is None:
        return "No scheme is smaller."
    if move.loss <= 0:
        return f"{move.to} is smaller and loses no more."
    start = (
        f"{move.to} would lose {move.loss:.3g} nats more to free {-move.bytes:,} bytes: "
        f"{move.nats_per_gb:.3g} nats per GB, "
    )
    if move.nats_per_gb >= price:
        return f"{start}no less than a GB is worth."
    if not is_best:
        return f"{start}less than a GB is worth: {_NOT_BEST}."
    return f"{start}less than a GB is worth, but nothing of more worth fits into these bytes."


def _beside(runner_up: RunnerUp | None, predicted_kl: float) -> str:
    if runner_up is None:
        return "No plan with another scheme here fits the budget."
    start = f"The best plan with another scheme here takes {runner_up.scheme} and loses "
    if runner_up.extra == 0:
        return f"{start}just as much."
    share = f" ({abs(runner_up.extra) / predicted_kl * 100:.2g}%)" if predicted_kl else ""
    if runner_up.extra < 0:
        return f"{start}{-runner_up.extra:.3g} nats less{share}: {_NOT_BEST}."
    least = max(runner_up.least_extra, 0.0)
    # Digits that are shown alike are no news.
    is_exact = f"{least:.2g}" == f"{runner_up.extra:.2g}"
    bound = "" if is_exact else f", at least {least:.3g}"
    return f"{start}{runner_up.extra:.3g} nats more{share}{bound}."
