"""What transformers calls of bitplan: `import bitplan` is enough.

Folders that bitplan saved, for `from_pretrained`, and a way to run experts.

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
"""`quant_method` in config.json's `quantization_config`, which holds the plan; and the name of an
experts' implementation."""


def register() -> None:
    """Tell transformers of `METHOD`, now or when it is imported."""
    for name, tell in _REGISTRIES.items():
        if (found := sys.modules.get(name)) is not None:
            tell(found)
    is_told = _REGISTRIES.keys() <= sys.modules.keys()
    if not is_told and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _tell_of_experts(registry: ModuleType) -> None:
    """Add to the ways that experts are run in, unless they are not known yet."""

    def run(module: Any, *args: Any, **keywords: Any) -> Any:
        from bitplan.routed import run

        return run(module, *args, **keywords)

    known = getattr(registry, "ALL_EXPERTS_FUNCTIONS", None)
    if known is not None:  # else it is in the middle of its import
        known.register(METHOD, run)


def _tell_of_folders(registry: ModuleType) -> None:
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
        checkpoint_files: Sequence[str] = ()

        def update_attn_implementation(self, config: Any) -> Any:
            """Is told of what config.json says: the dtype in it may be that of scales.

            `save_pretrained` writes down that of the first tensor for that of the model.
            """
            config = super().update_attn_implementation(config)
            config.dtype = self.quantization_config.plan["provenance"]["dtype"]
            return config

        def validate_environment(self, *_: Any, device_map: Any = None, **__: Any) -> None:
            """Is told of the places that "auto" comes to, before anything is read."""
            from bitplan.export.pretrained import check_places

            if self.checkpoint_files:
                check_places(device_map, self.checkpoint_files)

        def _process_model_before_weight_loading(
            self,
            model: Any,
            checkpoint_files: Sequence[str] | None = None,
            device_map: Any = None,
            **_: Any,
        ) -> Any:
            from bitplan.export.pretrained import check_places, prepare

            self.checkpoint_files = checkpoint_files or ()
            check_places(device_map, self.checkpoint_files)
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


_REGISTRIES = {
    "transformers.quantizers.auto": _tell_of_folders,
    "transformers.integrations.moe": _tell_of_experts,
}
"""By name the modules of transformers that are told, and what tells each."""


class _Finder(MetaPathFinder):
    """Finds transformers' registries as all others do, and has them told when they are there."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname not in _REGISTRIES or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _REGISTRIES[fullname])
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
