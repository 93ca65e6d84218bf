"""What a plan measured on held-out tokens."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from bitplan.schema.record import Record


class Measured(Record):
    """KL to the reference model on tokens that neither calibration nor search has seen."""

    name: str = Field(description="what was measured: plan, solved, refined, uniform int4g64, ...")
    bytes: NonNegativeInt
    kl: float = Field(description="KL(reference || compressed), nats per token")
    standard_error: NonNegativeFloat = Field(description="of kl over sequences")
    perplexity: NonNegativeFloat | None = Field(description="null: no next token is predicted")


class Evidence(Record):
    """The plan beside the uniform plan, measured on the same held-out tokens."""

    tokens: PositiveInt
    tokens_digest: str
    reference_perplexity: NonNegativeFloat | None
    plan: Measured
    uniform: Measured | None = Field(description="the best uniform plan that fits, if one does")
    others: tuple[Measured, ...] = Field(default=(), description="what else was tried")
