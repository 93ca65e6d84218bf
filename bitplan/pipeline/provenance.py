"""What a table or plan says of how it was made."""

import importlib.metadata
from dataclasses import asdict

from bitplan.calibration import Counts, TokenSets, tokens_digest
from bitplan.models import Inputs, source_name
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.schema import Provenance

_PACKAGES = ("bitplan", "numpy", "ortools", "torch", "transformers")


def provenance_of(
    workspace: Workspace,
    tokens: TokenSets | None,
    settings: Settings,
    counts: Counts | None = None,
) -> Provenance:
    """Of what is made of a model by these settings; no tokens: nothing was measured."""
    return Provenance(
        model=source_name(workspace.source),
        model_digest=workspace.digest,
        dtype=workspace.dtype,
        calibration=tokens.source if tokens else "none needed",
        calibration_digest=tokens_digest(tokens.calibration) if tokens else "",
        calibration_tokens=Inputs.of(tokens.calibration).tokens if tokens else 0,
        domains=tokens.domains if tokens else (),
        temperature=settings.temperature,
        estimator=settings.estimator,
        quantizer=settings.renders_by,
        transform=settings.transform,
        seed=settings.seed,
        sizes=asdict(counts) if counts else {},
        context=settings.context,
        batch=settings.batch,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
    )
