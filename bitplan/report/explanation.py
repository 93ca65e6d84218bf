"""Why a plan is as it is, as tables for a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from bitplan.allocator import Explanation
from bitplan.allocator.explanation import Move, Reason
from bitplan.report import text


def explanation_tables(found: Explanation, *, words: bool = False) -> Iterator[RenderableType]:
    """What bytes are worth, what comes next, and each layer's reason, also in `words`."""
    yield _summary(found)
    if found.left_out:
        yield f"Told by its bytes alone: nothing here heeds {', '.join(found.left_out)}."
    yield budgets_table(found)
    if found.promotions or found.demotions:
        yield moves_table(found)
    yield reasons_table(found.reasons)
    if words:
        for reason in found.reasons:
            yield f"{', '.join(reason.layers)}: {reason.scheme}. {reason.why}"


def budgets_table(found: Explanation) -> Table:
    """The best plan of smaller and larger budgets beside this plan."""
    view = _table("Other budgets", "change: against the best plan of this budget")
    for name in ("bytes", "predicted KL", "change", "layers that differ"):
        view.add_column(name, justify="right", no_wrap=True)
    for there in found.increments:
        view.add_row(
            f"{there.more_bytes:+,}",
            text.nats(there.predicted_kl),
            text.change(there.change),
            str(len(there.schemes)),
        )
    return view


def moves_table(found: Explanation) -> Table:
    """The layers that would change next: with more bytes, then with fewer."""
    view = _table("Next to change", "each alone, all others as they are")
    for name in ("layer", "from", "to"):
        view.add_column(name, no_wrap=name != "layer", overflow="fold")
    for name in ("bytes", "KL", "nats\nper GB"):
        view.add_column(name, justify="right", no_wrap=True)
    for moves in (found.promotions, found.demotions):
        for move in moves:
            view.add_row(*_move_cells(move))
        view.add_section()
    return view


def reasons_table(reasons: Sequence[Reason]) -> Table:
    """Each layer's scheme, its runner-up, and what the best plan with that would lose more."""
    view = _table(
        "Layers",
        "costs: what the best plan with the runner-up loses more; "
        "kept: share of samples of the table that give the layer its scheme",
    )
    view.add_column("layer", overflow="fold")
    view.add_column("scheme", no_wrap=True)
    for name in ("bytes", "KL"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("runner-\nup", no_wrap=True)
    for name in ("costs", "kept"):
        view.add_column(name, justify="right", no_wrap=True)
    for reason in reasons:
        view.add_row(*_reason_cells(reason))
    return view


def _summary(found: Explanation) -> str:
    best = found.best_kl
    better = found.predicted_kl - best
    is_best = better <= 1e-9 * found.predicted_kl
    beside = (
        "no better plan of this table is known" if is_best else f"the best has {text.nats(best)}"
    )
    worth = (
        f"at the margin a GB is worth {found.nats_per_gb:.3g} nats per token"
        if found.nats_per_gb
        else "the budget binds nothing"
    )
    return (
        f"{found.model}: {found.bytes:,} bytes of {found.budget_bytes:,}, predicted KL "
        f"{text.nats(found.predicted_kl)} ({beside}); {worth}."
    )


def _move_cells(move: Move) -> tuple[str, ...]:
    return (
        ", ".join(move.layers),
        str(move.scheme),
        str(move.to),
        f"{move.bytes:+,}",
        text.change(move.loss),
        f"{move.nats_per_gb:.3g}",
    )


def _reason_cells(reason: Reason) -> tuple[str, ...]:
    second = reason.runner_up
    return (
        ", ".join(reason.layers),
        str(reason.scheme),
        text.size(reason.bytes),
        text.nats(reason.loss),
        str(second.scheme) if second else text.NOTHING,
        text.nats(second.extra) if second else text.NOTHING,
        text.NOTHING if reason.kept is None else f"{reason.kept:.0%}",
    )


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=0)
