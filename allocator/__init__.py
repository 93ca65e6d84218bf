"""A cost table and a budget -> a plan. Knows no tensors: never imports torch."""

from bitplan.allocator.best_plans import best_plans as best_plans
from bitplan.allocator.curve import Curve as Curve
from bitplan.allocator.explain import explain as explain
from bitplan.allocator.explanation import Explanation as Explanation
from bitplan.allocator.frontier import frontier as frontier
from bitplan.allocator.pins import Pins as Pins
from bitplan.allocator.plan import plan_of as plan_of
from bitplan.allocator.problem import Problem as Problem
from bitplan.allocator.problem import Solution as Solution
from bitplan.allocator.problem import Status as Status
from bitplan.allocator.refine import Refined as Refined
from bitplan.allocator.refine import refine as refine
from bitplan.allocator.solve import SOLVERS as SOLVERS
from bitplan.allocator.solve import check_solver as check_solver
from bitplan.allocator.solve import choose_solver as choose_solver
from bitplan.allocator.solve import smallest_bytes as smallest_bytes
from bitplan.allocator.solve import solve as solve
from bitplan.allocator.stability import Stability as Stability
from bitplan.allocator.stability import stability as stability
from bitplan.allocator.uniform import uniform as uniform
