"""A compressed model as a folder: safetensors, and a config.json that carries the plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig

from bitplan.apply import pack_caches_of, pack_units
from bitplan.errors import ModelError, OutputError
from bitplan.export.told import tell_transformers
from bitplan.files import make_folder, read_text, write_text
from bitplan.formats import Packed
from bitplan.models import model_class
from bitplan.registered import METHOD
from bitplan.schema import Layer, Plan, Stack, Unit, units_of
from bitplan.unserved import check_kernels
from bitplan.weight import AbstractWeight


def save(
    model: nn.Module,
    folder: str | Path,
    plan: Plan,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Write a packed model to a folder that `load` reads; config.json, which names it, comes last.

    Weights go to several files where they take more than `max_shard_size`, in bytes or as "5GB".
    Raises `OutputError` where the folder cannot be written or holds a model that is not packed,
    and `ModelError` for a model that has no transformers config.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise ModelError(
            f"{type(model).__name__} has no transformers config, so it cannot be saved as a "
            "folder. Save its state_dict() with safetensors instead."
        )
    folder = folder_to_save_in(folder)
    state, aliases = state_of(model)
    try:
        (folder / "config.json").unlink(missing_ok=True)  # it must not name half of the weights
        save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if isinstance(generation := getattr(model, "generation_config", None), GenerationConfig):
            # Not by its save_pretrained, which refuses settings that contradict each other.
            write_text(folder / "generation_config.json", generation.to_json_string())
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write to {folder}: {error}. Free some space.") from error
    content = json.loads(config.to_json_string(use_diff=True))
    content["architectures"] = [type(model).__name__]
    content["dtype"] = plan.provenance.dtype  # else it would be guessed from what is packed
    content["quantization_config"] = {
        "quant_method": METHOD,
        "aliases": aliases,
        "plan": json.loads(plan.to_json()),
    }
    write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")
    # safetensors writes files that only their owner can read; others may read what they may list.
    mode = (folder / "config.json").stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)
    return folder


def load(folder: str | Path, *, strict: bool = False) -> nn.Module:
    """Load a folder that `save` wrote, packed as it was: no weight is decoded or held twice.

    A scheme that has no kernel here is decoded for each product, with one warning.

    Raises `ModelError` for a folder that is not one, and for missing or damaged tensors; and
    `SchemeError`, if `strict`, in place of that warning.
    """
    folder = Path(folder)
    settings = _settings(folder)
    plan = Plan.from_json(json.dumps(settings["plan"]))
    check_kernels(((c.layer, c.scheme) for c in plan.choices), "cpu", strict=strict)
    model = _empty(folder, getattr(torch, plan.provenance.dtype))
    state = _read(folder)
    units, sizes = units_of_plan(plan)
    pack_units(model, units, lambda stack: take(folder, state, stack, sizes))
    state |= {alias: state[name] for alias, name in settings["aliases"].items() if name in state}
    _fill(model, state, folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    packed = pack_caches_of(model, plan).eval().requires_grad_(False)
    return tell_transformers(packed, plan)


def folder_to_save_in(folder: str | Path) -> Path:
    """Make the folder; raises `OutputError` where it holds a model which is not packed."""
    folder = make_folder(folder)
    if (folder / "config.json").is_file() and not is_packed(folder):
        raise OutputError(
            f"{folder} holds another model, which would be lost. Choose an empty folder."
        )
    return folder


def _empty(folder: Path, dtype: torch.dtype) -> Any:
    """The model that config.json describes, its parameters without memory."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        del config.quantization_config
        with init_empty_weights():
            return model_class(config)._from_config(config, dtype=dtype)
    except _BAD_CONFIG as error:
        raise ModelError(
            f"{folder}/config.json describes no model that transformers can make ({error}). Copy "
            "it again, or update transformers."
        ) from error


def _fill(model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Give a model, packed already, the tensors that no scheme touches."""
    try:
        model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds other tensors than its config.json says ({error}). Copy it again."
        ) from error
    for name, _ in list(model.named_buffers()):
        if name in state:
            holder, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(holder), leaf, state[name])
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"{folder} has no tensor {name}. Copy it again, or apply the plan again."
            )


def is_packed(folder: str | Path) -> bool:
    """Whether `save` wrote a folder."""
    config = Path(folder) / "config.json"
    return config.is_file() and f'"quant_method": "{METHOD}"' in read_text(config)


def load_plan(folder: str | Path) -> Plan:
    """The plan of a folder that `save` wrote."""
    return Plan.from_json(json.dumps(_settings(Path(folder))["plan"]))


def _settings(folder: Path) -> dict[str, Any]:
    if not is_packed(folder):
        raise ModelError(
            f"{folder} is not a model that bitplan saved: it has no config.json with "
            f'quant_method "{METHOD}". Make one with bitplan apply.'
        )
    try:
        settings = json.loads(read_text(folder / "config.json"))["quantization_config"]
        return {"plan": settings["plan"], "aliases": settings["aliases"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/config.json is damaged ({error}). Copy it again.") from error


def state_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is saved: each storage once, and the names that the others go by."""
    # Buffers that are computed, not saved, are saved all the same: they are part of what was
    # counted and measured, down to their dtype. A packed weight's own may be arranged: its state
    # has the canonical ones.
    buffers = {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        if not isinstance(module, AbstractWeight)
        for name, buffer in module.named_buffers(recurse=False)
    }
    state = buffers | model.state_dict()
    kept, aliases, names = {}, {}, {}
    for name, tensor in state.items():
        storage = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and storage in names:
            aliases[name] = names[storage]
        else:
            names[storage] = name
            kept[name] = tensor
    return kept, aliases


def _read(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            state |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} is truncated or damaged ({error}). Copy it again.") from error
    return state


def units_of_plan(plan: Plan) -> tuple[list[Unit], dict[Layer, int]]:
    """What holds the weights of a plan, and the bytes of each of its layers."""
    choices = [choice for choice in plan.choices if not choice.layer.is_cache]
    sizes = {choice.layer: choice.bytes for choice in choices}
    return units_of({choice.layer: choice.scheme for choice in choices}), sizes


def take(
    folder: Path, state: dict[str, Tensor], stack: Stack, sizes: Mapping[Layer, int]
) -> Packed:
    """One packed weight out of the state; raises `ModelError` where it is not as planned."""
    layer = stack.layer
    prefix = f"{layer.parameter}."
    names = [name for name in state if name.startswith(prefix)]
    tensors = {name.removeprefix(prefix): state.pop(name) for name in names}
    packed = Packed(scheme=stack.scheme, shape=layer.shape, tensors=tensors)
    planned = sum(sizes[member] for member in stack.members)
    if packed.nbytes != planned:
        raise ModelError(
            f"{folder}: {layer.name} has {packed.nbytes:,} bytes, but its plan says "
            f"{planned:,}. Copy the folder again, or apply the plan again."
        )
    return packed


_BAD_CONFIG = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    StrictDataclassError,
)
