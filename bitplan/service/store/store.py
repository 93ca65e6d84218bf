"""All that the service remembers, behind one door."""

from dataclasses import dataclass

from bitplan.service.settings import ServiceSettings
from bitplan.service.store.artefacts import Artefacts
from bitplan.service.store.audit import Audit
from bitplan.service.store.claims import Claims
from bitplan.service.store.database import Database
from bitplan.service.store.jobs import Jobs
from bitplan.service.store.shelf import Shelf
from bitplan.service.store.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Store:
    """Jobs, artefacts, tokens and the audit log of one service; used from many threads."""

    jobs: Jobs
    claims: Claims
    artefacts: Artefacts
    tokens: Tokens
    audit: Audit
    database: Database

    @classmethod
    def open(cls, settings: ServiceSettings) -> "Store":
        """Open it, make what is missing, bring tables up to date.

        Raises `InputError` for a database that is not to be used, `StoreUnavailable` for one that
        cannot be reached, and `OutputError` for folders that cannot be written.
        """
        shelf = Shelf(settings.artefact_folder)
        database = Database.open(settings)
        return cls(
            jobs=Jobs(database),
            claims=Claims(database, lease_s=settings.lease_s, most_deaths=settings.most_deaths),
            artefacts=Artefacts(database, shelf),
            tokens=Tokens(database),
            audit=Audit(database),
            database=database,
        )

    def close(self) -> None:
        """Close the connections."""
        self.database.close()
