"""Plans improved on the model itself: whole plans are proposed, their measured KL disposes."""

from bitplan.allocator.search.evaluator import Assignment as Assignment
from bitplan.allocator.search.evaluator import Evaluator as Evaluator
from bitplan.allocator.search.evaluator import Slopes as Slopes
from bitplan.allocator.search.proposals import uniforms as uniforms
from bitplan.allocator.search.search import INTERRUPTED as INTERRUPTED
from bitplan.allocator.search.search import SEARCHES as SEARCHES
from bitplan.allocator.search.search import Found as Found
from bitplan.allocator.search.search import check_search as check_search
from bitplan.allocator.search.search import search as search
