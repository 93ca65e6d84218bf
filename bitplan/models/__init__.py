"""Models: loading them, the layers in them, and the way from a layer to its weight."""

from bitplan.models.blocks import block_of as block_of
from bitplan.models.blocks import blocks_of as blocks_of
from bitplan.models.blocks import recorded as recorded
from bitplan.models.blocks import replayed as replayed
from bitplan.models.caches import Cached as Cached
from bitplan.models.caches import find_caches as find_caches
from bitplan.models.caches import hooked_caches as hooked_caches
from bitplan.models.caches import rounded_caches as rounded_caches
from bitplan.models.caches import why_no_cache as why_no_cache
from bitplan.models.demo import DemoFiles as DemoFiles
from bitplan.models.demo import demo_documents as demo_documents
from bitplan.models.demo import fetch as fetch
from bitplan.models.describe import Description as Description
from bitplan.models.describe import describe as describe
from bitplan.models.digest import check_finite as check_finite
from bitplan.models.digest import model_digest as model_digest
from bitplan.models.experts import eager_experts as eager_experts
from bitplan.models.layers import find_layers as find_layers
from bitplan.models.layers import module_of as module_of
from bitplan.models.layers import weight_of as weight_of
from bitplan.models.load import load_model as load_model
from bitplan.models.load import load_tokenizer as load_tokenizer
from bitplan.models.load import model_class as model_class
from bitplan.models.logits import next_token_logits as next_token_logits
from bitplan.models.source import Source as Source
from bitplan.models.source import source_name as source_name
