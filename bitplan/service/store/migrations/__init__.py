"""The history of the tables, as alembic reads it; `bitplan.service.store.migrate` runs it."""
