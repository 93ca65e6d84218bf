"""Names that are known without torch are those that there are."""

from bitplan import names
from bitplan.compress import QUANTIZERS
from bitplan.sensitivity import ESTIMATORS


def test_names_are_those_of_the_registries():
    assert set(names.QUANTIZERS) == set(QUANTIZERS)
    assert set(names.ESTIMATORS) == {"auto", *ESTIMATORS}
