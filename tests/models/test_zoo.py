"""Model classes of transformers, tiny and random: described, measured, solved, applied, run."""

from dataclasses import dataclass, field

import pytest
import torch
import transformers
from torch import Tensor, nn

from bitplan import Budget, apply_plan, measure, solve
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import InputError
from bitplan.models import Inputs, describe, read_outputs

LENGTH = 12
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
STATE = {"state_size": 8, "conv_kernel": 4, "expand": 2}
MAMBA2 = {**STATE, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
SEQ2SEQ = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}
SPEECH = {
    **{name: size for name, size in TEXT.items() if name != "max_position_embeddings"},
    "num_hidden_layers": 1,
    "conv_dim": (16, 16),
    "conv_kernel": (4, 2),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


@dataclass(frozen=True)
class Case:
    """A model class, its config, and what it reads: tokens, images, audio or features."""

    model: str
    config: str
    sizes: dict = field(default_factory=dict)
    reads: str = "tokens"
    dtype: torch.dtype = torch.bfloat16


def causal(name: str, sizes: dict, **more: object) -> Case:
    return Case(f"{name}ForCausalLM", f"{name}Config", {**sizes, **more})


DECODERS = {
    "llama": causal("Llama", LLAMA),
    "llama-base": Case("LlamaModel", "LlamaConfig", LLAMA),
    "llama-classes": Case("LlamaForSequenceClassification", "LlamaConfig", LLAMA),
    "mistral": causal("Mistral", LLAMA, sliding_window=8),
    "qwen2": causal("Qwen2", LLAMA),
    "qwen3": causal("Qwen3", LLAMA),
    "gemma": causal("Gemma", LLAMA),
    "gemma2": causal("Gemma2", LLAMA, query_pre_attn_scalar=8),
    "gemma3": Case("Gemma3ForCausalLM", "Gemma3TextConfig", LLAMA),
    "phi": causal("Phi", TEXT),
    "phi3": causal("Phi3", LLAMA),
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", {**TEXT, **GPT}),
    "gpt-bigcode": causal("GPTBigCode", {**TEXT, **GPT}),
    "gpt-neo": causal(
        "GPTNeo",
        TEXT,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
    "gpt-neox": causal("GPTNeoX", TEXT),
    "gptj": causal("GPTJ", {**TEXT, **GPT}, rotary_dim=4),
    "codegen": causal("CodeGen", {**TEXT, **GPT}, rotary_dim=4),
    "opt": causal("OPT", TEXT, ffn_dim=48, word_embed_proj_dim=16),
    "bloom": causal("Bloom", TEXT, n_head=4, n_layer=2),
    "falcon": causal("Falcon", TEXT),
    "falcon-new": causal("Falcon", TEXT, new_decoder_architecture=True, num_kv_heads=2),
    "mpt": causal(
        "Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 64, "max_seq_len": 64}
    ),
    "stablelm": causal("StableLm", LLAMA),
    "starcoder2": causal("Starcoder2", LLAMA),
    "olmo": causal("Olmo", LLAMA),
    "olmo2": causal("Olmo2", LLAMA),
    "olmo3": causal("Olmo3", LLAMA),
    "cohere": causal("Cohere", LLAMA),
    "cohere2": causal("Cohere2", LLAMA),
    "granite": causal("Granite", LLAMA),
    "glm": causal("Glm", LLAMA),
    "glm4": causal("Glm4", LLAMA),
    "smollm3": causal("SmolLM3", LLAMA),
    "ernie4.5": causal("Ernie4_5", LLAMA),
    "helium": causal("Helium", LLAMA),
    "nemotron": causal("Nemotron", LLAMA),
    "persimmon": causal("Persimmon", TEXT),
    "biogpt": causal("BioGpt", TEXT),
    "xglm": causal("XGLM", TEXT, d_model=32, attention_heads=4, num_layers=2, ffn_dim=48),
    "seed-oss": causal("SeedOss", LLAMA),
    "exaone4": causal("Exaone4", LLAMA),
    "arcee": causal("Arcee", LLAMA),
    "apertus": causal("Apertus", LLAMA),
    "hunyuan": causal("HunYuanDenseV1", LLAMA),
    "diffllama": causal("DiffLlama", LLAMA),
    "bitnet": causal("BitNet", LLAMA),
    "ctrl": Case("CTRLLMHeadModel", "CTRLConfig", {**TEXT, **GPT, "dff": 48}),
    "openai-gpt": Case("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", {**TEXT, **GPT}),
    "imagegpt": Case("ImageGPTForCausalImageModeling", "ImageGPTConfig", {**TEXT, **GPT}),
}
MIXTURES = {
    "qwen2-moe": causal("Qwen2Moe", EXPERTS, num_experts=4, shared_expert_intermediate_size=40),
    "qwen3-moe": causal("Qwen3Moe", EXPERTS, num_experts=4),
    "mixtral": causal("Mixtral", EXPERTS, num_local_experts=4),
    "olmoe": causal("Olmoe", EXPERTS, num_experts=4),
    "granite-moe": causal("GraniteMoe", EXPERTS, num_local_experts=4),
    "deepseek-v2": causal("DeepseekV2", {**EXPERTS, **LATENT, "num_key_value_heads": 4}),
    "deepseek-v3": causal("DeepseekV3", {**EXPERTS, **LATENT, "num_key_value_heads": 4}),
    "gpt-oss": causal("GptOss", EXPERTS, num_local_experts=4),
    "llama4": Case(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**EXPERTS, "num_local_experts": 4, "intermediate_size_mlp": 40, "num_experts_per_tok": 1},
    ),
    "dbrx": causal(
        "Dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "vocab_size": 64,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {
                "ffn_hidden_size": 24,
                "moe_num_experts": 4,
                "moe_top_k": 2,
                "hidden_size": 32,
            },
        },
    ),
    "ernie4.5-moe": causal(
        "Ernie4_5_Moe", EXPERTS, moe_num_experts=4, moe_k=2, moe_layer_start_index=1
    ),
    "jetmoe": causal("JetMoe", EXPERTS, num_local_experts=4, kv_channels=8),
    "phimoe": causal("Phimoe", EXPERTS, num_local_experts=4),
    "glm4-moe": causal("Glm4Moe", EXPERTS, n_routed_experts=4),
    "hunyuan-moe": causal("HunYuanMoEV1", EXPERTS, num_experts=4, moe_topk=2),
    "minimax": causal("MiniMax", EXPERTS, num_local_experts=4),
    "dots1": causal(
        "Dots1",
        EXPERTS,
        n_routed_experts=4,
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    ),
    "flex-olmo": causal("FlexOlmo", EXPERTS, num_experts=4),
    "switch": Case(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        dtype=torch.float32,
    ),
    "nllb-moe": Case(
        "NllbMoeForConditionalGeneration",
        "NllbMoeConfig",
        {**SEQ2SEQ, "num_experts": 4, "encoder_sparse_step": 1, "decoder_sparse_step": 1},
        dtype=torch.float32,
    ),
}
STATE_SPACES = {
    "mamba": causal("Mamba", TEXT, **STATE),
    "mamba2": causal("Mamba2", TEXT, **MAMBA2),
    "falcon-mamba": causal("FalconMamba", TEXT, **STATE),
    "jamba": causal(
        "Jamba",
        LLAMA,
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
    ),
    "zamba": causal(
        "Zamba",
        LLAMA,
        num_hidden_layers=3,
        attn_layer_period=2,
        attn_layer_offset=0,
        layers_block_type=["hybrid", "mamba", "hybrid"],
        mamba_d_state=8,
        n_mamba_heads=2,
    ),
    "zamba2": causal(
        "Zamba2",
        LLAMA,
        layers_block_type=["mamba", "hybrid"],
        mamba_d_state=8,
        n_mamba_heads=4,
        mamba_headdim=16,
        chunk_size=8,
        num_mem_blocks=1,
    ),
    "bamba": causal(
        "Bamba",
        LLAMA,
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "rwkv": causal("Rwkv", TEXT, attention_hidden_size=32, context_length=64),
    "recurrent-gemma": causal("RecurrentGemma", LLAMA, lru_width=32, attention_window_size=8),
    "falcon-h1": causal(
        "FalconH1",
        LLAMA,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "nemotron-h": causal(
        "NemotronH",
        LLAMA,
        layers_block_type=["mamba", "attention"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        chunk_size=8,
    ),
    "granite-hybrid": causal(
        "GraniteMoeHybrid",
        LLAMA,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        layer_types=["mamba", "attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "lfm2": causal("Lfm2", LLAMA, full_attn_idxs=[1], block_dim=32, block_ff_dim=48),
    "qwen3-next": causal(
        "Qwen3Next",
        EXPERTS,
        num_experts=4,
        shared_expert_intermediate_size=24,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
}
ENCODERS = {
    "bert": Case("BertModel", "BertConfig", TEXT),
    "bert-masked": Case("BertForMaskedLM", "BertConfig", TEXT),
    "bert-classes": Case("BertForSequenceClassification", "BertConfig", TEXT),
    "bert-words": Case("BertForTokenClassification", "BertConfig", TEXT),
    "bert-answers": Case("BertForQuestionAnswering", "BertConfig", TEXT),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", TEXT),
    "distilbert": Case(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**TEXT, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "albert": Case("AlbertForMaskedLM", "AlbertConfig", {**TEXT, "embedding_size": 16}),
    "electra": Case("ElectraModel", "ElectraConfig", {**TEXT, "embedding_size": 16}),
    "deberta": Case(
        "DebertaModel",
        "DebertaConfig",
        {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "deberta-v2": Case(
        "DebertaV2Model",
        "DebertaV2Config",
        {
            **TEXT,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True,
            "position_buckets": 8,
        },
    ),
    "mpnet": Case("MPNetModel", "MPNetConfig", TEXT),
    "xlm-roberta": Case("XLMRobertaForMaskedLM", "XLMRobertaConfig", TEXT),
    "camembert": Case("CamembertForMaskedLM", "CamembertConfig", TEXT),
    "longformer": Case("LongformerModel", "LongformerConfig", {**TEXT, "attention_window": 4}),
    "big-bird": Case("BigBirdModel", "BigBirdConfig", {**TEXT, "attention_type": "original_full"}),
    "modernbert": Case("ModernBertForMaskedLM", "ModernBertConfig", TEXT),
    "nomic-bert": Case("NomicBertModel", "NomicBertConfig", TEXT),
    "esm": Case("EsmForMaskedLM", "EsmConfig", {**TEXT, "mask_token_id": 3}),
    "funnel": Case(
        "FunnelModel",
        "FunnelConfig",
        {
            "vocab_size": 64,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 48,
        },
    ),
    "squeezebert": Case("SqueezeBertModel", "SqueezeBertConfig", {**TEXT, "embedding_size": 32}),
    "mobilebert": Case(
        "MobileBertModel",
        "MobileBertConfig",
        {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "roformer": Case("RoFormerModel", "RoFormerConfig", TEXT),
    "xlnet": Case(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48},
    ),
    "ibert": Case("IBertModel", "IBertConfig", TEXT),
    "nystromformer": Case(
        "NystromformerModel",
        "NystromformerConfig",
        {**TEXT, "num_landmarks": 4, "segment_means_seq_len": 12},
        dtype=torch.float32,
    ),
    "fnet": Case("FNetModel", "FNetConfig", TEXT, dtype=torch.float32),
    "canine": Case(
        "CanineModel",
        "CanineConfig",
        {**TEXT, "num_hash_buckets": 16, "local_transformer_stride": 4},
    ),
    "layoutlm": Case("LayoutLMModel", "LayoutLMConfig", TEXT),
    "xmod": Case(
        "XmodModel", "XmodConfig", {**TEXT, "languages": ["en"], "default_language": "en"}
    ),
    "t5-encoder": Case("T5EncoderModel", "T5Config", T5),
    "clip-text": Case("CLIPTextModel", "CLIPTextConfig", TEXT),
    "siglip-text": Case("SiglipTextModel", "SiglipTextConfig", TEXT),
}
ENCODER_DECODERS = {
    "t5": Case("T5ForConditionalGeneration", "T5Config", T5),
    "mt5": Case("MT5ForConditionalGeneration", "MT5Config", T5),
    "umt5": Case("UMT5ForConditionalGeneration", "UMT5Config", T5),
    "long-t5": Case("LongT5ForConditionalGeneration", "LongT5Config", {**T5, "local_radius": 3}),
    "bart": Case("BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    "bart-base": Case("BartModel", "BartConfig", SEQ2SEQ),
    "mbart": Case("MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ),
    "pegasus": Case("PegasusForConditionalGeneration", "PegasusConfig", SEQ2SEQ),
    "m2m-100": Case("M2M100ForConditionalGeneration", "M2M100Config", SEQ2SEQ),
    "marian": Case("MarianMTModel", "MarianConfig", SEQ2SEQ),
    "blenderbot": Case("BlenderbotForConditionalGeneration", "BlenderbotConfig", SEQ2SEQ),
    "led": Case(
        "LEDForConditionalGeneration",
        "LEDConfig",
        {
            **SEQ2SEQ,
            "attention_window": 4,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
        },
    ),
    "prophetnet": Case(
        "ProphetNetForConditionalGeneration",
        "ProphetNetConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
        },
    ),
}
VISIONS = {
    "vit": Case("ViTForImageClassification", "ViTConfig", VISION, "images"),
    "vit-base": Case("ViTModel", "ViTConfig", VISION, "images"),
    "deit": Case("DeiTModel", "DeiTConfig", VISION, "images"),
    "beit": Case(
        "BeitModel", "BeitConfig", {**VISION, "use_relative_position_bias": True}, "images"
    ),
    "data2vec-vision": Case("Data2VecVisionModel", "Data2VecVisionConfig", VISION, "images"),
    "dinov2": Case("Dinov2Model", "Dinov2Config", VISION, "images"),
    "dinov3": Case("DINOv3ViTModel", "DINOv3ViTConfig", VISION, "images"),
    "swin": Case(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "window_size": 2,
        },
        "images",
    ),
    "swinv2": Case(
        "Swinv2Model",
        "Swinv2Config",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "window_size": 2,
        },
        "images",
    ),
    "clip-vision": Case("CLIPVisionModel", "CLIPVisionConfig", VISION, "images"),
    "siglip-vision": Case("SiglipVisionModel", "SiglipVisionConfig", VISION, "images"),
    "convnext": Case(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 16},
        "images",
    ),
    "convnextv2": Case(
        "ConvNextV2Model",
        "ConvNextV2Config",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 16},
        "images",
    ),
    "resnet": Case(
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        "images",
    ),
    "regnet": Case(
        "RegNetModel",
        "RegNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
        "images",
    ),
    "mobilenet-v2": Case(
        "MobileNetV2Model",
        "MobileNetV2Config",
        {"depth_multiplier": 0.25, "image_size": 32},
        "images",
    ),
    "segformer": Case(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
        },
        "images",
    ),
    "vit-mae": Case("ViTMAEModel", "ViTMAEConfig", VISION, "images"),
    "ijepa": Case("IJepaModel", "IJepaConfig", VISION, "images"),
    "pvt": Case(
        "PvtModel",
        "PvtConfig",
        {
            "image_size": 32,
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sequence_reduction_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [4, 2],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
        },
        "images",
    ),
    "poolformer": Case(
        "PoolFormerModel",
        "PoolFormerConfig",
        {
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "padding": [1, 1],
            "num_encoder_blocks": 2,
        },
        "images",
    ),
    "levit": Case(
        "LevitModel",
        "LevitConfig",
        {
            "image_size": 16,
            "hidden_sizes": [16, 16, 16],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        "images",
    ),
    "focalnet": Case(
        "FocalNetModel",
        "FocalNetConfig",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "focal_levels": [1, 1],
            "focal_windows": [3, 3],
        },
        "images",
    ),
    "hiera": Case(
        "HieraModel",
        "HieraConfig",
        {
            "image_size": (16, 16),
            "patch_size": (3, 3),
            "patch_stride": (2, 2),
            "patch_padding": (1, 1),
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "masked_unit_size": (4, 4),
            "query_stride": (2, 2),
            "num_query_pool": 1,
        },
        "images",
    ),
    "detr": Case(
        "DetrForObjectDetection",
        "DetrConfig",
        {
            "use_timm_backbone": False,
            "backbone": None,
            "use_pretrained_backbone": False,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32],
                "depths": [1, 1],
                "layer_type": "basic",
                "out_features": ["stage2"],
            },
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_queries": 5,
        },
        "images",
    ),
    "yolos": Case(
        "YolosForObjectDetection",
        "YolosConfig",
        {**VISION, "image_size": (16, 16), "num_detection_tokens": 4},
        "images",
    ),
    "videomae": Case(
        "VideoMAEModel", "VideoMAEConfig", {**VISION, "num_frames": 2, "tubelet_size": 2}, "video"
    ),
    "llava": Case(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {**LLAMA, "model_type": "llama"},
            "vision_config": {**VISION, "image_size": 8, "model_type": "clip_vision_model"},
            "image_token_id": 63,
            "vision_feature_layer": -1,
        },
        "images and tokens",
    ),
}
SPEECHES = {
    "wav2vec2": Case("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH, "audio"),
    "wav2vec2-base": Case("Wav2Vec2Model", "Wav2Vec2Config", SPEECH, "audio"),
    "hubert": Case("HubertModel", "HubertConfig", SPEECH, "audio"),
    "wavlm": Case("WavLMModel", "WavLMConfig", SPEECH, "audio"),
    "data2vec-audio": Case(
        "Data2VecAudioModel", "Data2VecAudioConfig", {**SPEECH, "conv_pos_kernel_size": 3}, "audio"
    ),
    "unispeech": Case("UniSpeechModel", "UniSpeechConfig", SPEECH, "audio"),
    "sew": Case("SEWModel", "SEWConfig", {**SPEECH, "squeeze_factor": 2}, "audio"),
    "ast": Case(
        "ASTModel", "ASTConfig", {**VISION, "max_length": 32, "num_mel_bins": 16}, "frames"
    ),
    "whisper": Case(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **SEQ2SEQ,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        "features and tokens",
    ),
    "whisper-encoder": Case(
        "WhisperForAudioClassification",
        "WhisperConfig",
        {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 16, "classifier_proj_size": 16},
        "features",
    ),
    "speech-to-text": Case(
        "Speech2TextForConditionalGeneration",
        "Speech2TextConfig",
        {
            **SEQ2SEQ,
            "input_feat_per_channel": 8,
            "conv_channels": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
        },
        "frames and tokens",
    ),
}
CANNOT = {
    "reformer": (
        Case(
            "ReformerModelWithLMHead",
            "ReformerConfig",
            {
                **TEXT,
                "attention_head_size": 8,
                "attn_layers": ["local"],
                "axial_pos_shape": (4, 4),
                "axial_pos_embds_dim": (16, 16),
                "local_attn_chunk_length": 4,
                "feed_forward_size": 48,
                "is_decoder": True,
            },
        ),
        "ReformerModelWithLMHead cannot be differentiated: If you want to train `ReformerModel`",
    ),
    "big-transfer": (
        Case(
            "BitModel",
            "BitConfig",
            {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4},
            "images",
        ),
        "BitModel has no layer that bitplan can quantize",
    ),
    "encodec": (
        Case(
            "EncodecModel",
            "EncodecConfig",
            {
                "num_filters": 4,
                "hidden_size": 16,
                "codebook_dim": 16,
                "codebook_size": 16,
                "upsampling_ratios": [2, 2],
            },
            "audio",
        ),
        "EncodecModel has no layer that bitplan can quantize",
    ),
    "vit-on-text": (
        Case("ViTModel", "ViTConfig", VISION),
        "ViTModel needs pixel_values, but it was given input_ids. Give calibration, a mapping of",
    ),
    "vit-on-images-of-another-size": (
        Case("ViTModel", "ViTConfig", VISION, "images of 8"),
        r"ViTModel cannot run on what it was given: Input image size \(8\*8\) doesn't match",
    ),
    "llama-on-images": (
        Case("LlamaForCausalLM", "LlamaConfig", LLAMA, "images"),
        "LlamaForCausalLM needs input_ids, but it was given pixel_values. Give calibration text",
    ),
    "whisper-without-a-decoder": (
        Case(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32},
            "features",
        ),
        "needs decoder_input_ids, but it was given input_features. Give calibration, a mapping",
    ),
    "bert-on-nothing": (
        Case("BertModel", "BertConfig", TEXT, "nothing"),
        "BertModel predicts no next token, so no text can be sampled from it. Give calibration",
    ),
    "vit-on-nothing": (
        Case("ViTModel", "ViTConfig", VISION, "nothing"),
        'ViTModel predicts no next token.* Give calibration, a mapping of tensors with "pixel',
    ),
}
"""What cannot work, and the sentence that says why."""

ZOO = {
    **DECODERS,
    **MIXTURES,
    **STATE_SPACES,
    **ENCODERS,
    **ENCODER_DECODERS,
    **VISIONS,
    **SPEECHES,
}


def build(case: Case) -> nn.Module:
    config = getattr(transformers, case.config)(**case.sizes)
    model = getattr(transformers, case.model)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                spread = max(1, parameter.numel() // max(1, len(parameter))) ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.to(case.dtype).requires_grad_(False)


def inputs_for(case: Case, model: nn.Module, rows: int) -> dict[str, Tensor] | Tensor | None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 60, (rows, LENGTH), generator=generator)
    if case.reads in ("tokens", "nothing"):
        return tokens if case.reads == "tokens" else None

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator).to(case.dtype)

    config = model.config
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", 32)
    size = size if isinstance(size, int) else size[0]
    bins = getattr(config, "num_mel_bins", getattr(config, "input_feat_per_channel", 8))
    main, _, more = case.reads.partition(" and ")
    given = {
        "images": lambda: {"pixel_values": noise(3, size, size)},
        "images of 8": lambda: {"pixel_values": noise(3, 8, 8)},
        "video": lambda: {"pixel_values": noise(2, 3, size, size)},
        "audio": lambda: {"input_values": noise(160)},
        "frames": lambda: {model.main_input_name: noise(32, bins)},
        "features": lambda: {"input_features": noise(bins, 32)},
    }[main]()
    if more:
        name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
        given[name] = tokens
        if case.model.startswith("Llava"):
            given[name][:, :4] = 63
    return given


@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_measured_solved_applied_and_run(name, tmp_path):
    case = ZOO[name]
    model = build(case)
    given = inputs_for(case, model, 5)
    description = describe(model)
    table = measure(
        model,
        calibration=given,
        sizes=Sizes(calibration=3, search=1, held_out=1, length=LENGTH),
        schemes=["int3g32", "int4s", "int8", "bf16", "fp32"],
        quantizer="rtn",
        workdir=tmp_path,
    )
    assert table.rest_bytes == description.rest_bytes
    assert all(cost.loss >= 0 for row in table.rows for cost in row.costs)
    assert any(cost.loss > 0 for row in table.rows for cost in row.costs)
    smallest = sum(min(cost.bytes for cost in row.costs) for row in table.rows)
    budget = table.rest_bytes + (smallest + description.bytes - table.rest_bytes) // 2
    plan = solve(table, Budget(bytes=budget))
    apply_plan(model, plan, workdir=tmp_path, calibration=given)
    assert held_bytes(model) == plan.bytes <= budget
    with torch.no_grad():
        assert read_outputs(model, Inputs.of(given)).values.isfinite().all()


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_work_says_why(name, tmp_path):
    case, sentence = CANNOT[name]
    model = build(case)
    with pytest.raises(InputError, match=sentence):
        measure(
            model,
            calibration=inputs_for(case, model, 4),
            sizes=Sizes(calibration=2, search=1, held_out=1, length=LENGTH),
            schemes=["int4s", "bf16"],
            quantizer="rtn",
            workdir=tmp_path,
        )


def test_there_are_many_classes():
    assert len({case.model for case in ZOO.values()}) >= 150
