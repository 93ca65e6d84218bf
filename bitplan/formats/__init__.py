"""How a number is stored: pack and unpack, encode and decode. Exact bytes are in `footprint`."""

from bitplan.formats.bits import pack as pack
from bitplan.formats.bits import unpack as unpack
from bitplan.formats.cached import check_cached as check_cached
from bitplan.formats.cached import encode_rows as encode_rows
from bitplan.formats.cached import round_rows as round_rows
from bitplan.formats.cached import rows_of as rows_of
from bitplan.formats.cached import states_of as states_of
from bitplan.formats.composed import in_place as in_place
from bitplan.formats.composed import kept_of_row as kept_of_row
from bitplan.formats.composed import pack_kept as pack_kept
from bitplan.formats.composed import rest_of as rest_of
from bitplan.formats.composed import widened as widened
from bitplan.formats.decode import read_number as read_number
from bitplan.formats.packed import TORCH_DTYPES as TORCH_DTYPES
from bitplan.formats.packed import Packed as Packed
from bitplan.formats.scales import MATRIX_SCALE as MATRIX_SCALE
