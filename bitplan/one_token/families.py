"""Where the blocks of each family of transformers have what they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitplan.kernels.decoder.roles import (
    AFTER_ATTENTION,
    AFTER_FEED_FORWARD,
    BEFORE_ATTENTION,
    BEFORE_FEED_FORWARD,
    DOWN,
    GATE,
    GATE_UP,
    KEY,
    OF_KEYS,
    OF_QUERIES,
    OUTPUT,
    QUERY,
    QUERY_KEY_VALUE,
    UP,
    VALUE,
)

APART = {
    QUERY: "self_attn.q_proj",
    KEY: "self_attn.k_proj",
    VALUE: "self_attn.v_proj",
    OUTPUT: "self_attn.o_proj",
    GATE: "mlp.gate_proj",
    UP: "mlp.up_proj",
    DOWN: "mlp.down_proj",
}
FUSED = {
    QUERY_KEY_VALUE: "self_attn.qkv_proj",
    OUTPUT: "self_attn.o_proj",
    GATE_UP: "mlp.gate_up_proj",
    DOWN: "mlp.down_proj",
}
BEFORE = {
    BEFORE_ATTENTION: "input_layernorm",
    BEFORE_FEED_FORWARD: "post_attention_layernorm",
}
AFTER = {
    AFTER_ATTENTION: "post_attention_layernorm",
    AFTER_FEED_FORWARD: "post_feedforward_layernorm",
}
AROUND = {
    BEFORE_ATTENTION: "input_layernorm",
    BEFORE_FEED_FORWARD: "pre_feedforward_layernorm",
    **AFTER,
}
OF_HEADS = {OF_QUERIES: "self_attn.q_norm", OF_KEYS: "self_attn.k_norm"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of block: root mean square norms, attention, and a gated feed-forward layer.

    Args:
        linears: paths by roles.
        norms: paths by roles; there is none where a role is missing.
        activation: path of the gate's function.
        others: paths of what does nothing while a model generates.
        adds_one: whether norms multiply by 1 + weight.
        attention: transformers' implementation that is computed here.
        factor: the block's attribute that multiplies what it adds to its input.
        cap: the attention's attribute that scores do not exceed.
        is_rotated: the attention's attribute that says whether positions rotate queries and keys.
    """

    linears: Mapping[str, str] = field(default_factory=lambda: APART)
    norms: Mapping[str, str] = field(default_factory=lambda: BEFORE)
    activation: str = "mlp.act_fn"
    others: tuple[str, ...] = ()
    adds_one: bool = False
    attention: str = "sdpa"
    factor: str | None = None
    cap: str | None = None
    is_rotated: str | None = None


LLAMA, OLMO = Family(), Family(norms=AFTER | OF_HEADS)

FAMILIES = {
    "LlamaDecoderLayer": LLAMA,
    "MistralDecoderLayer": LLAMA,
    "Qwen2DecoderLayer": LLAMA,
    "Qwen3DecoderLayer": Family(norms=BEFORE | OF_HEADS),
    "SmolLM3DecoderLayer": Family(is_rotated="use_rope"),
    "GraniteDecoderLayer": Family(factor="residual_multiplier"),
    "Gemma2DecoderLayer": Family(
        norms=AROUND, adds_one=True, attention="eager", cap="attn_logit_softcapping"
    ),
    "Gemma3DecoderLayer": Family(norms=AROUND | OF_HEADS, adds_one=True),
    "Phi3DecoderLayer": Family(
        linears=FUSED,
        activation="mlp.activation_fn",
        others=("resid_attn_dropout", "resid_mlp_dropout"),
    ),
    "Olmo2DecoderLayer": OLMO,
    "Olmo3DecoderLayer": OLMO,
}
"""By the names of transformers' classes."""
