"""How a number is stored: pack and unpack, encode and decode. Exact bytes are in `footprint`."""

from bitplan.formats.bits import pack as pack
from bitplan.formats.bits import unpack as unpack
from bitplan.formats.packed import TORCH_DTYPES as TORCH_DTYPES
from bitplan.formats.packed import Packed as Packed
from bitplan.formats.packed import decode_integer as decode_integer
