"""The vocabulary: what crosses a file, a process or HTTP.

Every class here is frozen, refuses unknown fields, and writes the same bytes for the same content.
"""

from bitplan.schema.artefact import SCHEMA_VERSION as SCHEMA_VERSION
from bitplan.schema.artefact import Artefact as Artefact
from bitplan.schema.artefact import json_schema as json_schema
from bitplan.schema.budget import Budget as Budget
from bitplan.schema.channels import Channels as Channels
from bitplan.schema.costs import Cost as Cost
from bitplan.schema.costs import CostTable as CostTable
from bitplan.schema.costs import Interaction as Interaction
from bitplan.schema.costs import Row as Row
from bitplan.schema.costs import Sublayer as Sublayer
from bitplan.schema.evidence import Evidence as Evidence
from bitplan.schema.evidence import Measured as Measured
from bitplan.schema.experts import Stack as Stack
from bitplan.schema.experts import Unit as Unit
from bitplan.schema.experts import of_each_expert as of_each_expert
from bitplan.schema.experts import units_of as units_of
from bitplan.schema.family import FAMILIES as FAMILIES
from bitplan.schema.family import INT_BITS as INT_BITS
from bitplan.schema.family import WIDE as WIDE
from bitplan.schema.family import Family as Family
from bitplan.schema.kept import Kept as Kept
from bitplan.schema.kept import KeptLimit as KeptLimit
from bitplan.schema.layer import Kind as Kind
from bitplan.schema.layer import Layer as Layer
from bitplan.schema.low_rank import LowRank as LowRank
from bitplan.schema.parts import BASE as BASE
from bitplan.schema.parts import COLUMNS as COLUMNS
from bitplan.schema.parts import DOWN as DOWN
from bitplan.schema.parts import INDEX_BYTES as INDEX_BYTES
from bitplan.schema.parts import KEPT as KEPT
from bitplan.schema.parts import SALIENT as SALIENT
from bitplan.schema.parts import UP as UP
from bitplan.schema.parts import narrowed as narrowed
from bitplan.schema.parts import parts as parts
from bitplan.schema.parts import salient_columns as salient_columns
from bitplan.schema.parts import unfit as unfit
from bitplan.schema.plan import Choice as Choice
from bitplan.schema.plan import Plan as Plan
from bitplan.schema.provenance import Domain as Domain
from bitplan.schema.provenance import Provenance as Provenance
from bitplan.schema.record import Record as Record
from bitplan.schema.salient import Salient as Salient
from bitplan.schema.scheme import FLOAT_BITS as FLOAT_BITS
from bitplan.schema.scheme import GROUP_SIZES as GROUP_SIZES
from bitplan.schema.scheme import LEFT_OUT as LEFT_OUT
from bitplan.schema.scheme import Scheme as Scheme
from bitplan.schema.scheme import file_name as file_name
from bitplan.schema.scheme import scheme_names as scheme_names
from bitplan.schema.sparsity import Sparsity as Sparsity
