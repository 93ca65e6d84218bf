"""Models by name, as the reader's process describes them."""

import pytest

from bitplan.service.policy import DEMO


@pytest.mark.demo
def test_the_demos_model_is_described(served):
    api = served(demo=True)
    answer = api("GET", "/v1/models/description", params={"model": DEMO})
    assert answer.status_code == 200, answer.text
    described = answer.json()
    assert (described["layers"], described["blocks"]) == (211, 30)
