"""Load a model or its tokenizer through transformers: no remote code, no pickles, one copy."""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from bitplan.errors import ModelError
from bitplan.models.failures import explained_failures, quiet_transformers
from bitplan.models.source import Source
from bitplan.names import check_dtype
from bitplan.place import Place, check_folder, locate

log = logging.getLogger(__name__)


def load_model(source: Source, *, dtype: str | torch.dtype = "auto") -> nn.Module:
    """Load a model in eval mode, without gradients.

    `source` is a local folder with config.json and safetensors, a .gguf file (its weights are
    dequantized), a hub id, or a model. A model comes back as it is, only switched to eval mode.
    `dtype` is `auto` (bfloat16), `bfloat16`, `float16` or `float32`, for files.

    Safetensors are mapped and cast tensor by tensor. transformers holds a GGUF file's weights in
    `dtype` once, beside one tensor at a time in float32.

    Raises `ModelError` for whatever cannot be loaded.
    """
    if isinstance(source, nn.Module):
        return source.eval()
    place, torch_dtype = locate(source), _dtype(dtype)
    check_folder(place)
    with explained_failures(place), quiet_transformers(place):
        model = _filled(place, _config(place), torch_dtype)
    if place.gguf_file is not None:
        _forget_quantization(model)
        log.info("%s: its weights are dequantized to %s", place.source, torch_dtype)
    # Otherwise a path of this machine would end up in a saved config.
    model.name_or_path = model.config.name_or_path = place.name
    return model.eval().requires_grad_(False)


def load_outline(source: str | Path, *, dtype: str | torch.dtype = "auto") -> nn.Module:
    """A model without its weights, on torch's meta device: enough to be described, in seconds.

    As `load_model`, but of safetensors only the headers are read, of a .gguf file only what comes
    before its weights, and from the hub only config.json is fetched.
    """
    place, torch_dtype = locate(source), _dtype(dtype)
    check_folder(place)
    with explained_failures(place), quiet_transformers(place):
        config = _config(place)
        if place.gguf_file is None and Path(place.location).is_dir():
            model = _filled(place, config, torch_dtype, device_map="meta")
        else:
            with torch.device("meta"):
                model = model_class(config)._from_config(config, dtype=torch_dtype)
    model.name_or_path = model.config.name_or_path = place.name
    return model.eval().requires_grad_(False)


def _config(place: Place) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(place.location, trust_remote_code=False, **place.keywords)
    _refuse_quantized(place, config)
    return config


def _filled(
    place: Place, config: PreTrainedConfig, dtype: torch.dtype, **keywords: Any
) -> PreTrainedModel:
    """The model with the weights of its files; raises for one that lacks some."""
    loaded: Any = model_class(config).from_pretrained(
        place.location,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        **_weight_keywords(place),
        **keywords,
    )
    model, info = loaded
    _refuse_incomplete(place, sorted(info["missing_keys"]))
    return model


def load_tokenizer(source: Source) -> Any:
    """Load the tokenizer of a folder, a .gguf file or a hub id. Raises `ModelError`."""
    if isinstance(source, nn.Module):
        raise ModelError(
            f"A {type(source).__name__} object has no tokenizer. Pass a tokenizer, or tokens in "
            "place of text."
        )
    place = locate(source)
    missing = ModelError(
        f"{place.source} has no tokenizer files. Save the model's tokenizer into it with "
        "save_pretrained of transformers, or give tokens in place of text."
    )
    folder = Path(place.location)
    if folder.is_dir() and place.gguf_file is None and not _has_tokenizer_files(folder):
        raise missing
    with explained_failures(place, "its tokenizer"), quiet_transformers(place):
        tokenizer = AutoTokenizer.from_pretrained(
            place.location, trust_remote_code=False, **place.keywords
        )
        # Where there are no files transformers may make up a tokenizer of special tokens alone.
        if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
            raise missing
    return tokenizer


def find_tokenizer(source: Source) -> Any:
    """The tokenizer that a model is saved with; None, and a warning, where there is none."""
    try:
        return load_tokenizer(source)
    except ModelError as error:
        log.warning("The model is saved without a tokenizer. %s", error)
        return None


def _has_tokenizer_files(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in _TOKENIZER_FILES)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    check_dtype(name)
    return torch.bfloat16 if name == "auto" else getattr(torch, name)


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that the checkpoint was saved from; else what its type of model is made for."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    kind = type(config)
    # Encoders such as BERT are in the causal mapping too, though they were not trained for it.
    is_encoder = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING
    mapping: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if getattr(config, "is_encoder_decoder", False):
        mapping = transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    elif is_encoder or kind not in mapping:
        mapping = transformers.MODEL_MAPPING
    classes = mapping[kind]
    return classes[0] if isinstance(classes, tuple) else classes


def _weight_keywords(place: Place) -> dict[str, Any]:
    if place.gguf_file is None:
        return {"use_safetensors": True}
    # Newer versions of transformers would keep the blocks packed where they have kernels for them.
    gguf_config = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    return {"gguf_file": place.gguf_file, **unpack}


def _forget_quantization(model: PreTrainedModel) -> None:
    """Take away the mark 'quantized with gguf', with which save_pretrained refuses to work."""
    for holder in (model, model.config):
        for name in ("hf_quantizer", "quantization_method", "quantization_config"):
            if name in vars(holder):
                delattr(holder, name)
        for name in ("is_quantized", "_is_quantized"):
            if name in vars(holder):
                setattr(holder, name, False)


def _refuse_quantized(place: Place, config: PreTrainedConfig) -> None:
    settings = getattr(config, "quantization_config", None)
    if settings:
        method = settings.get("quant_method", "another tool") if isinstance(settings, dict) else ""
        raise ModelError(
            f"{place.source} is already quantized ({method or type(settings).__name__}). bitplan "
            "needs the weights as they were before: give the original model."
        )


def _refuse_incomplete(place: Place, missing: list[str]) -> None:
    if missing:
        raise ModelError(
            f"{place.source} lacks {len(missing)} of its model's tensors, the first {missing[0]}: "
            "they would be random. Save the whole model again, or correct `architectures` in its "
            "config.json."
        )


_TOKENIZER_FILES = ("*token*", "*vocab*", "*.model", "*.bpe", "merges.txt", "tekken.json")
