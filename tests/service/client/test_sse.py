"""Server-sent events, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplan.errors import ServiceError
from bitplan.service.client.sse import Message, Parser

STREAM = (
    b': hello\r\n\r\nid: 1\r\nevent: state\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    b"data:two\n\n: ping\n\nid: 3\rdata\r\revent: lost\n\nid: 4\ndata: gr\xc3\xb6\xc3\x9fer\n\n"
    b"data: without an end\n"
)
MESSAGES = [
    Message(kind="state", data='{"a":\n1}', id="1"),
    Message(data="two"),
    Message(id="3"),
    Message(data="größer", id="4"),
]


def test_a_stream_is_read_by_its_rules():
    assert list(Parser().feed(STREAM)) == MESSAGES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_chunks_end_does_not_matter(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    parser = Parser()
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert [message for chunk in chunks for message in parser.feed(chunk)] == MESSAGES


@pytest.mark.parametrize("chunk", [b"x" * 1_000_000, b"data: " + b"x" * 1_000_000 + b"\n"])
def test_an_endless_event_is_refused(chunk):
    parser = Parser()

    def feed() -> None:
        for _ in range(20):
            list(parser.feed(chunk))

    with pytest.raises(ServiceError, match="an event of more than 16,000,000 bytes"):
        feed()


def test_many_events_are_not_one():
    parser = Parser()
    event = b"data: " + b"x" * 1_000_000 + b"\n\n"
    assert sum(len(list(parser.feed(event))) for _ in range(20)) == 20
