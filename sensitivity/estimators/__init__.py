"""What an error of a weight costs: one estimator a file, one interface for all of them.

Each takes the error dW of the weight as rendered, so that cost and compression agree.
"""

from bitplan.errors import InputError
from bitplan.sensitivity.estimators.estimator import AbstractEstimator as AbstractEstimator
from bitplan.sensitivity.estimators.estimator import Part as Part
from bitplan.sensitivity.estimators.fisher_diagonal import FisherDiagonal
from bitplan.sensitivity.estimators.gradient_covariance import GradientCovariance
from bitplan.sensitivity.estimators.kronecker import Kronecker
from bitplan.sensitivity.estimators.outliers import OutlierRatio, WeightOutliers
from bitplan.sensitivity.estimators.output_error import OutputError
from bitplan.sensitivity.estimators.weight_error import Sqnr, WeightError

ESTIMATORS: dict[str, AbstractEstimator] = {
    "gradient_covariance": GradientCovariance(),
    "fisher_diagonal": FisherDiagonal(labels="data"),
    "fisher_sampled": FisherDiagonal(labels="sampled"),
    "kronecker_fisher": Kronecker(),
    "output_error": OutputError(),
    "outlier_ratio": OutlierRatio(),
    "weight_outliers": WeightOutliers(),
    "weight_error": WeightError(),
    "sqnr": Sqnr(),
}
"""In order of preference."""


def get_estimator(name: str) -> AbstractEstimator:
    """The estimator of a name; raises `InputError` with those there are."""
    if name not in ESTIMATORS:
        raise InputError(f"There is no estimator {name!r}. Choose one of: {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name]
