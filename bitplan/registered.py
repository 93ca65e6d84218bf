"""Folders that bitplan saved, for `from_pretrained` of transformers: `import bitplan` is enough.

transformers is slow to import and `import bitplan` is not, so what it has to know is told when it
is imported, by whomever.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

METHOD = "bitplan"
"""`quant_method` in config.json's `quantization_config`, which holds the plan."""

_REGISTRY = "transformers.quantizers.auto"


def register() -> None:
    """Tell transformers of `METHOD`, now or when it is imported."""
    found = sys.modules.get(_REGISTRY)
    if found is not None:
        _tell(found)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _tell(registry: ModuleType) -> None:
    """Add to the registry; it is in the middle of an import, so none of bitplan's is made here."""
    if METHOD in registry.AUTO_QUANTIZER_MAPPING:
        return
    base = sys.modules["transformers.quantizers.base"].HfQuantizer
    config = sys.modules["transformers.utils.quantization_config"].QuantizationConfigMixin
    registry.register_quantization_config(METHOD)(_config_class(config))
    registry.register_quantizer(METHOD)(_quantizer_class(base))


def _config_class(base: type) -> type:
    class BitplanConfig(base):
        """`quantization_config` of a folder that bitplan saved."""

        def __init__(self, plan: dict[str, Any], aliases: dict[str, str], **_: Any) -> None:
            self.quant_method, self.plan, self.aliases = METHOD, plan, aliases

    return BitplanConfig


def _quantizer_class(base: type) -> type:
    class BitplanQuantizer(base):
        """Packed layers in place of dense ones, before transformers reads any weight."""

        requires_calibration = True  # a model becomes one by `bitplan.allocate` and `apply_plan`

        def _process_model_before_weight_loading(
            self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
        ) -> Any:
            from bitplan.export.pretrained import prepare

            self.checkpoint_files = checkpoint_files or ()
            prepare(model, self.quantization_config, self.checkpoint_files)
            return model

        def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
            from bitplan.export.pretrained import finish

            return finish(model, self.quantization_config, self.checkpoint_files)

        def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any], dict[str, str]]:
            """What `save_pretrained` writes."""
            from bitplan.export.checkpoint import state_of

            return state_of(model)[0], {}

        def is_serializable(self) -> bool:
            """`save_pretrained` works."""
            return True

        @property
        def is_compileable(self) -> bool:
            """Packed products are operators of torch."""
            return True

        @property
        def is_trainable(self) -> bool:
            """Adapters can be trained on top."""
            return True

    return BitplanQuantizer


class _Finder(MetaPathFinder):
    """Finds transformers' registry as all others do, and has it told when it is there."""

    _is_asking = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _REGISTRY or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _tell)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Any, told: Callable[[ModuleType], None]) -> None:
        self._loader, self._told = loader, told

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._told(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
