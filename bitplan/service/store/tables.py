"""The tables. Times are seconds since 1970 in UTC; JSON is text, as the records write it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite numbers rows by itself only where the key is an INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),  # the order of submission
    Column("id", String(32), nullable=False, unique=True),
    Column("owner", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("idempotency_key", String(300)),
    Column("request_id", String(100), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("events", Integer, nullable=False),  # how many there are: the last one's number
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("is_cancelling", Boolean, nullable=False),
    Column("progress", Text),
    Column("fault", Text),
    Column("worker", String(200)),
    Column("lease_until", Double),  # by the database's clock
    Column("used_s", Double, nullable=False),  # of running, by all attempts since the last retry
    Column("deaths", Integer, nullable=False),  # attempts that ended without a word, likewise
    UniqueConstraint("owner", "idempotency_key", name="one_job_a_key"),
    Index("jobs_of_owner", "owner", "number"),
    Index("jobs_in_state", "state", "number"),
)

events = Table(
    "events",
    metadata,
    Column("job", String(32), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("data", Text, nullable=False),
)

artefacts = Table(
    "artefacts",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("job", String(32), ForeignKey("jobs.id")),  # none: somebody sent it
    Column("owner", String(200), nullable=False),
    Column("name", String(500), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("media_type", String(200), nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("job", "name", name="one_artefact_a_name"),
    Index("artefacts_of_digest", "digest"),
    Index("artefacts_of_name", "name", "number"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("scope", String(20), nullable=False),
    Column("secret_digest", String(64), nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

audit = Table(
    "audit",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(100), nullable=False),
    Column("subject", String(500), nullable=False),
    Column("request_id", String(100), nullable=False),
    Column("address", String(100), nullable=False),
)
