"""What the service remembers: jobs and their events, artefacts, tokens, and who did what.

The database is the truth about jobs; the queue only says that there may be something to do.
"""

from bitplan.service.store.artefacts import Artefacts as Artefacts
from bitplan.service.store.artefacts import Kept as Kept
from bitplan.service.store.audit import Audit as Audit
from bitplan.service.store.audit import Note as Note
from bitplan.service.store.claims import Claim as Claim
from bitplan.service.store.errors import KeyReused as KeyReused
from bitplan.service.store.errors import LeaseLost as LeaseLost
from bitplan.service.store.errors import NoSuchArtefact as NoSuchArtefact
from bitplan.service.store.errors import NoSuchJob as NoSuchJob
from bitplan.service.store.errors import NoSuchToken as NoSuchToken
from bitplan.service.store.errors import NotRetryable as NotRetryable
from bitplan.service.store.errors import StoreUnavailable as StoreUnavailable
from bitplan.service.store.jobs import Jobs as Jobs
from bitplan.service.store.shelf import Shelf as Shelf
from bitplan.service.store.store import Store as Store
from bitplan.service.store.tokens import Tokens as Tokens
