"""One weight and its statistics -> compressed weight."""

from bitplan.compress.bound import Bound as Bound
from bitplan.compress.render import QUANTIZERS as QUANTIZERS
from bitplan.compress.render import get_quantizer as get_quantizer
from bitplan.compress.render import reads_covariance as reads_covariance
from bitplan.compress.render import render as render
from bitplan.compress.scales import SEARCHED as SEARCHED
from bitplan.compress.scales import search_scales as search_scales
from bitplan.compress.store import RENDERING as RENDERING
from bitplan.compress.store import Store as Store
from bitplan.compress.transforms import fold as fold
from bitplan.names import AWQ as AWQ
from bitplan.names import NONE as NONE
from bitplan.names import OMNIQUANT as OMNIQUANT
from bitplan.names import TRANSFORMS as TRANSFORMS
from bitplan.names import check_transform as check_transform
