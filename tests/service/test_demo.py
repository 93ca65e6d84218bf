"""The demo's model and text, by their name."""

import pytest

from bitplan.models import demo_documents, fetch
from bitplan.service.policy import DEMO
from bitplan.service.work.source import source_of, text_of


def test_other_names_are_what_they_are():
    assert source_of("/models/tiny") == "/models/tiny"
    assert text_of("/models/tiny", None) == {"calibration": None}
    assert text_of(DEMO, "/texts/a.txt") == {"calibration": "/texts/a.txt"}


@pytest.mark.demo
@pytest.mark.parametrize(
    ("model", "calibration"), [(DEMO, None), (DEMO, DEMO), ("/models/tiny", DEMO)]
)
def test_the_demos_text_is_read(model, calibration):
    text = text_of(model, calibration)
    assert text["calibration"] == demo_documents(fetch(offline=True))
    assert ("tokenizer" in text) == (model == DEMO)
