"""What an error of a weight costs: one estimator a file, one interface for all of them.

Each takes the error dW of the weight as rendered, so that cost and compression agree.
"""

from bitplan.errors import InputError
from bitplan.names import check_estimator as check_estimator
from bitplan.sensitivity.estimators.block_influence import BlockInfluence
from bitplan.sensitivity.estimators.choose import AUTO as AUTO
from bitplan.sensitivity.estimators.choose import LADDER as LADDER
from bitplan.sensitivity.estimators.choose import Resources as Resources
from bitplan.sensitivity.estimators.choose import choose_estimator as choose_estimator
from bitplan.sensitivity.estimators.estimator import AbstractEstimator as AbstractEstimator
from bitplan.sensitivity.estimators.estimator import Part as Part
from bitplan.sensitivity.estimators.fisher_diagonal import FisherDiagonal
from bitplan.sensitivity.estimators.gradient_covariance import (
    GradientCovariance,
    GroupedGradientCovariance,
)
from bitplan.sensitivity.estimators.hessian_trace import HessianTrace
from bitplan.sensitivity.estimators.kronecker import Kronecker
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator as AbstractModelEstimator,
)
from bitplan.sensitivity.estimators.model_estimator import Bench as Bench
from bitplan.sensitivity.estimators.operating_point import OperatingPoint
from bitplan.sensitivity.estimators.outliers import OutlierRatio, WeightOutliers
from bitplan.sensitivity.estimators.output_error import OutputError
from bitplan.sensitivity.estimators.output_fisher import KlFisher, OutputFisher
from bitplan.sensitivity.estimators.single_swaps import SingleSwaps
from bitplan.sensitivity.estimators.weight_error import Sqnr, WeightError

Estimator = AbstractEstimator | AbstractModelEstimator

LAYER_ESTIMATORS: dict[str, AbstractEstimator] = {
    "gradient_covariance": GradientCovariance(),
    "grouped_gradient_covariance": GroupedGradientCovariance(),
    "fisher_diagonal": FisherDiagonal(labels="data"),
    "fisher_sampled": FisherDiagonal(labels="sampled"),
    "kronecker_fisher": Kronecker(),
    "output_error": OutputError(),
    "outlier_ratio": OutlierRatio(),
    "weight_outliers": WeightOutliers(),
    "weight_error": WeightError(),
    "sqnr": Sqnr(),
}
"""Those that judge a layer from its own statistics, in order of preference."""

MODEL_ESTIMATORS: dict[str, AbstractModelEstimator] = {
    "output_fisher": OutputFisher(),
    "kl_fisher": KlFisher(),
    "operating_point": OperatingPoint(),
    "hessian_trace": HessianTrace(),
    "block_influence": BlockInfluence(),
    "single_swaps": SingleSwaps(),
}
"""Those that judge all layers on the model itself."""

ESTIMATORS: dict[str, Estimator] = {**LAYER_ESTIMATORS, **MODEL_ESTIMATORS}


def get_estimator(name: str) -> Estimator:
    """The estimator of a name; raises `InputError` with those there are."""
    if name not in ESTIMATORS:
        raise InputError(f"There is no estimator {name!r}. Choose one of: {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name]
