"""What made a table or a plan."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bitplan.schema.record import Record


class Domain(Record):
    """What one source gave to the calibration tokens."""

    name: str = Field(description="of the source, for people")
    documents: PositiveInt = Field(description="in the source, those kept apart to judge included")
    tokens: NonNegativeInt = Field(description="calibration tokens from it")
    share: float = Field(ge=0, le=1, description="of all calibration tokens")
    digest: str = Field(description="sha256 over its calibration tokens")


class Provenance(Record):
    """What made a table or a plan: enough to make it again, and to refuse another model."""

    model: str = Field(description="name of the model, for people")
    model_digest: str = Field(description="sha256 over the layers' weights as bfloat16")
    dtype: str = Field(description="torch dtype of what stays in full precision")
    calibration: str = Field(description="where the calibration tokens came from, for people")
    calibration_digest: str = Field(description="sha256 over the calibration tokens")
    calibration_tokens: NonNegativeInt
    domains: tuple[Domain, ...] = Field(default=(), description="sources of the calibration tokens")
    temperature: PositiveFloat = Field(
        default=1.0, description="at which text was sampled, where it was"
    )
    estimator: str
    quantizer: str
    transform: str = Field(
        default="none", description="folded into the weights before they are rendered"
    )
    seed: int
    sizes: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="most sequences to calibrate, search and judge on, and their length",
    )
    context: NonNegativeInt = Field(
        default=0, description="tokens of each sequence that the cache is counted for; 0: it is not"
    )
    batch: PositiveInt = Field(default=1, description="sequences that the cache is counted for")
    versions: dict[str, str] = Field(description="of bitplan and the packages it computed with")
