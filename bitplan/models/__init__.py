"""Models: loading them, the layers in them, and the way from a layer to its weight."""

from bitplan.models.convolution import patches as patches
from bitplan.models.demo import DemoFiles as DemoFiles
from bitplan.models.demo import demo_documents as demo_documents
from bitplan.models.demo import fetch as fetch
from bitplan.models.describe import Description as Description
from bitplan.models.describe import describe as describe
from bitplan.models.digest import check_finite as check_finite
from bitplan.models.digest import model_digest as model_digest
from bitplan.models.experts import eager_experts as eager_experts
from bitplan.models.inputs import Inputs as Inputs
from bitplan.models.inputs import main_input as main_input
from bitplan.models.inputs import reads as reads
from bitplan.models.layers import find_layers as find_layers
from bitplan.models.layers import module_of as module_of
from bitplan.models.layers import weight_of as weight_of
from bitplan.models.load import load_model as load_model
from bitplan.models.load import load_tokenizer as load_tokenizer
from bitplan.models.load import model_class as model_class
from bitplan.models.outputs import Outputs as Outputs
from bitplan.models.outputs import Says as Says
from bitplan.models.outputs import positions as positions
from bitplan.models.outputs import predicts_next_token as predicts_next_token
from bitplan.models.outputs import read_outputs as read_outputs
from bitplan.models.source import Source as Source
from bitplan.models.source import source_name as source_name
