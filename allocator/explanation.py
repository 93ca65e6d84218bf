"""What is said of a plan: records, which JSON can hold."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from bitplan.schema import Record, Scheme


class Move(Record):
    """Another scheme for one layer while all others stay. Fused layers are one."""

    layers: tuple[str, ...] = Field(min_length=1)
    scheme: Scheme = Field(description="that it has")
    to: Scheme
    bytes: int = Field(description="that it adds")
    loss: float = Field(description="that it adds, nats per token")
    nats_per_gb: float = Field(description="saved for each 10^9 bytes that it adds")


class Increment(Record):
    """The best plan of another budget, beside the best of this one."""

    more_bytes: int
    predicted_kl: NonNegativeFloat = Field(description="of the best plan found")
    lower_bound: float = Field(description="no plan of that budget can predict less")
    change: float = Field(description="of the best predicted KL, nats per token")
    schemes: dict[str, Scheme] = Field(description="of the layers that this plan gives another")


class RunnerUp(Record):
    """The best plan in which a layer has another scheme, all other layers free to move."""

    scheme: Scheme
    bytes: NonNegativeInt = Field(description="of the layer in it")
    loss: NonNegativeFloat = Field(description="of the layer in it, nats per token")
    predicted_kl: NonNegativeFloat = Field(description="of the best plan found that has it")
    extra: float = Field(description="predicted_kl less this plan's; below 0: that plan is better")
    least_extra: float = Field(description="no plan with another scheme here can have less")


class Reason(Record):
    """Why a layer has its scheme. Fused layers are one."""

    layers: tuple[str, ...] = Field(min_length=1)
    scheme: Scheme
    bytes: NonNegativeInt
    loss: NonNegativeFloat = Field(description="predicted increase of KL, nats per token")
    larger: Move | None = Field(description="that saves most for each byte; null: none saves")
    smaller: Move | None = Field(description="that loses least for each byte; null: none is")
    runner_up: RunnerUp | None = Field(description="null: no other scheme fits the budget")
    kept: float | None = Field(
        description="share of samples of the table that keep the scheme; null: it has no errors"
    )
    why: str = Field(description="the same in words")


class Explanation(Record):
    """What a plan's table says of it: what bytes are worth, what comes next, and why."""

    model: str
    left_out: tuple[str, ...] = Field(
        default=(), description="limits that the plan keeps to and that nothing here heeds"
    )
    budget_bytes: NonNegativeInt
    bytes: NonNegativeInt = Field(description="of the whole model")
    predicted_kl: NonNegativeFloat = Field(description="by this table, nats per token")
    best_kl: NonNegativeFloat = Field(description="of the best plan found at this budget")
    lower_bound: float = Field(description="no plan at this budget can predict less")
    nats_per_gb: NonNegativeFloat = Field(
        description="the marginal price: what 10^9 bytes would save, were there but a few more"
    )
    increments: tuple[Increment, ...] = Field(description="larger and smaller budgets")
    promotions: tuple[Move, ...] = Field(description="next with more bytes: most for a byte first")
    demotions: tuple[Move, ...] = Field(description="next with fewer: least for a byte first")
    reasons: tuple[Reason, ...] = Field(description="of the layers asked for, in the table's order")
