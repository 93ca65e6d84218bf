"""What the store refuses, each with a sentence for whoever asked."""

from bitplan.errors import BitplanError, InputError


class NoSuchJob(InputError):
    """There is no job of this id that the asker may see."""


class KeyReused(InputError):
    """An idempotency key came a second time, with another request."""


class NotRetryable(InputError):
    """A job that succeeded is not run again."""


class NoSuchArtefact(InputError):
    """There is no such artefact that the asker may see."""


class NoSuchToken(InputError):
    """There is no token of this id."""


class LeaseLost(BitplanError):
    """Another attempt has the job, or it has ended: whoever is told this must stop its work."""


class StoreUnavailable(BitplanError):
    """The database cannot be reached or written now."""
