"""The errors that bitplan raises on purpose.

    BitplanError
    ├── InputError             what the caller gave cannot be used (exit code 2)
    │   ├── BudgetError        zero, negative, not a number
    │   │   └── InfeasibleError    smaller than the smallest plan
    │   ├── CalibrationError   text or tokens: missing, empty, too short, not of this vocabulary
    │   ├── EngineError        workers or a cluster that cannot be had
    │   ├── ModelError         not found, pickled, non-finite, nothing to quantize
    │   ├── PlanError          truncated, edited, too new, of another model
    │   ├── SchemeError        unknown or illegal number format
    │   ├── TableError         a cost table that cannot be solved
    │   │   └── ConflictError      constraints that no plan meets together
    │   ├── TimeLimitError     the time was up before there was any plan
    │   └── OutputError        a folder or file that cannot be written
    ├── ServiceError           the service, or what lies before it, has a fault (exit code 1)
    │   ├── UnreachableError   no answer, or none whole, though it was asked again
    │   ├── RefusedError       an InputError too: what was asked cannot be done (exit code 2)
    │   │   └── AccessError    no token, a wrong one, or one that does not allow it
    │   └── JobError           a job that failed or was cancelled
    │       └── JobInputError  an InputError too: its request cannot be met (exit code 2)
    └── InternalError          a broken promise of our own (exit code 1)

Every message says what is, what was needed, and what to do.
"""

from collections.abc import Sequence


class BitplanError(Exception):
    """Root of the tree: catch this to catch whatever bitplan raises on purpose."""


class InputError(BitplanError, ValueError):
    """What the caller gave cannot be used."""


class BudgetError(InputError):
    """A budget that is not a positive number of bytes."""


class InfeasibleError(BudgetError):
    """No plan fits the budget. `smallest_bytes` is the size of the smallest plan there is.

    `conflict` names the constraints that the budget cannot hold together with, and without any
    one of which it could; `nearest` says for each of the limits among them what could hold.
    """

    def __init__(
        self,
        budget_bytes: int,
        smallest_bytes: int,
        *,
        conflict: Sequence[str] = (),
        nearest: Sequence[str] = (),
    ) -> None:
        needs = f"{smallest_bytes:,}"
        advice = "Raise the budget"
        if conflict:
            needs = f"{needs} when all is kept to. In its way: {'; '.join(conflict)}"
            advice = "Raise the budget, loosen one of these,"
        instead = "".join(f" Or allow {limit}." for limit in nearest)
        super().__init__(
            f"The budget is {budget_bytes:,} bytes, but the smallest plan needs {needs}. "
            f"{advice} or add a cheaper scheme.{instead}"
        )
        self.budget_bytes = budget_bytes
        self.smallest_bytes = smallest_bytes
        self.conflict = tuple(conflict)
        self.nearest = tuple(nearest)


class CalibrationError(InputError):
    """Calibration or evaluation text that cannot be used."""


class EngineError(InputError):
    """Worker processes or a cluster that cannot be reached, or that die over their work."""


class ModelError(InputError):
    """A model that cannot be loaded or compressed."""


class PlanError(InputError):
    """A plan that cannot be read, or that belongs to another model."""


class SchemeError(InputError):
    """An unknown scheme, or one that a layer cannot take."""


class TableError(InputError):
    """A cost table that cannot be read or solved."""


class ConflictError(TableError):
    """Constraints that no plan of a table meets together.

    `conflict` names some that cannot hold together, and could without any one of them; `nearest`
    says for each of the limits among them what could hold.
    """

    def __init__(
        self, message: str, *, conflict: Sequence[str] = (), nearest: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.conflict = tuple(conflict)
        self.nearest = tuple(nearest)


class TimeLimitError(InputError):
    """The time limit ended a search that had found no plan, and no proof that there is none."""


class OutputError(InputError):
    """A place that cannot be written to."""


class ServiceError(BitplanError):
    """The service did not do what a client asked of it.

    `status` is that of its answer, and `request_id` finds the request in its logs; None and empty
    where there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class UnreachableError(ServiceError):
    """There was no answer, or none that was whole."""


class RefusedError(ServiceError, InputError):
    """The service cannot do what was asked, however often it is asked."""


class AccessError(RefusedError):
    """The service wants another token."""


class JobError(ServiceError):
    """A job ended without success. `kind` is the class of its error; empty: it was cancelled."""

    def __init__(self, message: str, *, job: str, kind: str = "") -> None:
        super().__init__(message)
        self.job = job
        self.kind = kind


class JobInputError(JobError, InputError):
    """A job failed because its request cannot be met."""


class InternalError(BitplanError):
    """A promise of bitplan's own was broken: please report it."""
