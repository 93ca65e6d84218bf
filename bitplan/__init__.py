"""Which number format should each weight matrix get, in a model that must fit so many bytes?

>>> import bitplan
>>> bitplan.Budget(gb=4.5).total_bytes
4500000000
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitplan.registered import register

if TYPE_CHECKING:
    from bitplan.allocator import frontier as frontier
    from bitplan.allocator import solve as solve
    from bitplan.errors import BitplanError as BitplanError
    from bitplan.evaluate import evaluate as evaluate
    from bitplan.export import load as load
    from bitplan.export import save as save
    from bitplan.models import describe as describe
    from bitplan.pipeline import allocate as allocate
    from bitplan.pipeline import apply_plan as apply_plan
    from bitplan.pipeline import measure as measure
    from bitplan.pipeline import which_estimator as which_estimator
    from bitplan.schema import Budget as Budget
    from bitplan.schema import CostTable as CostTable
    from bitplan.schema import Plan as Plan
    from bitplan.schema import Scheme as Scheme
    from bitplan.service.client import AsyncClient as AsyncClient
    from bitplan.service.client import Client as Client

    __version__: str

# Where each name lives. A name is imported when it is first asked for: `import bitplan` is quick,
# and the allocator can be used without torch.
_HOMES = {
    "AsyncClient": "bitplan.service.client",
    "BitplanError": "bitplan.errors",
    "Budget": "bitplan.schema",
    "Client": "bitplan.service.client",
    "CostTable": "bitplan.schema",
    "Plan": "bitplan.schema",
    "Scheme": "bitplan.schema",
    "allocate": "bitplan.pipeline",
    "apply_plan": "bitplan.pipeline",
    "describe": "bitplan.models",
    "evaluate": "bitplan.evaluate",
    "frontier": "bitplan.allocator",
    "load": "bitplan.export",
    "measure": "bitplan.pipeline",
    "save": "bitplan.export",
    "solve": "bitplan.allocator",
    "which_estimator": "bitplan.pipeline",
}

__all__ = [
    "AsyncClient",
    "BitplanError",
    "Budget",
    "Client",
    "CostTable",
    "Plan",
    "Scheme",
    "allocate",
    "apply_plan",
    "describe",
    "evaluate",
    "frontier",
    "load",
    "measure",
    "save",
    "solve",
    "which_estimator",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Not at the top: that import takes as long as all of `import bitplan`.
        from importlib.metadata import version

        return version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


class _Package(ModuleType):
    """Keeps public names for what they name.

    `bitplan.evaluate` is a function and also the subpackage that holds it. The import system sets a
    subpackage as an attribute of its parent, which would hide the function as soon as anything
    imports the subpackage. `import bitplan.evaluate` and `from bitplan.evaluate import ...` do not
    need that attribute.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
register()
