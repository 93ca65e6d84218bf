"""Rows of the KV cache in a table, where a context is asked for."""

import logging
from collections.abc import Mapping

from bitplan.calibration import TokenSets, tokens_digest
from bitplan.errors import InputError, SchemeError
from bitplan.footprint import default_cache_schemes, legal_schemes
from bitplan.models import Cached, Inputs, find_caches, why_no_cache
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace, kept_scheme
from bitplan.progress import Progress, quiet
from bitplan.schema import Layer, Row, Scheme
from bitplan.sensitivity import cache_rows

log = logging.getLogger(__name__)


def caches_of(workspace: Workspace, *, context: int, batch: int) -> tuple[Cached, ...]:
    """Keys and values that a budget counts: none without a context."""
    return find_caches(workspace.model, context=context, batch=batch) if context else ()


def warn_of_no_cache(workspace: Workspace, settings: Settings) -> None:
    """Say why a model has no rows for the cache that a caller asks for."""
    reason = why_no_cache(workspace.model) if settings.context else None
    if reason is not None:
        log.warning("%s The budget is for the weights alone.", reason)


def legal_caches(workspace: Workspace, settings: Settings) -> dict[Layer, tuple[Scheme, ...]]:
    """The schemes that each may take. Raises `SchemeError` for a menu that leaves one without."""
    legal = {}
    for cached in caches_of(workspace, context=settings.context, batch=settings.batch):
        menu = settings.cache_schemes or default_cache_schemes(workspace.dtype, cached.head_dim)
        legal[cached.layer] = legal_schemes(cached.layer, workspace.dtype, menu)
        if not legal[cached.layer]:
            raise SchemeError(
                f"{cached.layer.name} is cached in {workspace.dtype}, and of the cache's schemes "
                f"{', '.join(map(str, menu))} none is smaller. Add an integer scheme."
            )
    return legal


def kept_caches(workspace: Workspace, layers: Mapping[Layer, object]) -> dict[str, Scheme]:
    """The scheme that keeps each as it is."""
    return {layer.name: kept_scheme(workspace.dtype) for layer in layers}


def measured_caches(
    workspace: Workspace, settings: Settings, tokens: TokenSets, progress: Progress = quiet
) -> tuple[Row, ...]:
    """The rows of the cache, with the costs kept in the work folder."""
    legal = legal_caches(workspace, settings)
    if not legal:
        return ()
    folder = workspace.folder / f"caches-{tokens_digest(tokens.calibration)[:16]}"
    inputs = Inputs.of(tokens.calibration)
    if inputs.ids is None or not inputs.is_text:
        raise InputError(
            f"The cache is measured on text, but the calibration is {tokens.source}. Give text or "
            "tokens, or leave the cache out of the budget."
        )
    return cache_rows(workspace.model, legal, inputs.ids, folder, progress=progress)
