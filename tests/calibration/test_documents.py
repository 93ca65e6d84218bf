"""Documents from every kind of source, and what is said of those that are none."""

import json

import pytest

from bitplan.calibration import read_documents
from bitplan.errors import CalibrationError


def lines(*values: object) -> str:
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values)


@pytest.mark.parametrize(
    ("name", "text", "documents"),
    [
        ("a.txt", "one\ntwo", ["one\ntwo"]),
        ("a.txt", "one\nmore\n\ntwo\n", ["one\nmore", "two\n"]),
        ("a.txt", "one\n\nmore\n\n\ntwo", ["one\n\nmore", "two"]),
        ("a.txt", "\n\none\n\ntwo\n\n\n", ["one", "two"]),
        ("a.md", "one\r\n\r\ntwo", ["one", "two"]),
        ("a.txt", "\ufeffone\n\ntwo", ["one", "two"]),
        ("a", "one", ["one"]),
        ("a.jsonl", lines("one", "two"), ["one", "two"]),
        (
            "a.jsonl",
            lines({"text": "one"}, {"content": "two"}, {"document": "3"}),
            ["one", "two", "3"],
        ),
        ("a.jsonl", lines({"text": "one", "content": "no", "id": 5}, "two"), ["one", "two"]),
        ("a.jsonl", lines({"text": None, "content": "one"}), ["one"]),
        ("a.jsonl", "\n" + lines("one") + "\n\n  \n" + lines("two") + "\n", ["one", "two"]),
        (
            "a.jsonl",
            lines("one\u2028line", "two\x85 lines", "three\x0b"),
            ["one\u2028line", "two\x85 lines", "three\x0b"],
        ),
        ("a.jsonl", "\ufeff" + lines("one") + "\r\n" + lines("two"), ["one", "two"]),
        ("a.JSONL", lines("one"), ["one"]),
        ("a.ndjson", lines("one"), ["one"]),
        ("a.jsonl", lines("", "  ", "one"), ["one"]),
    ],
)
def test_a_file_has_these_documents(name, text, documents, tmp_path):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_documents(path) == documents
    assert read_documents(str(path)) == documents


def test_a_list_is_its_documents_without_the_empty_ones():
    assert read_documents(["one", "", " \n", "two"]) == ["one", "two"]
    assert read_documents(("one",)) == ["one"]


def test_a_document_that_comes_again_is_left_out():
    assert read_documents(["one", "two", "one", " two\n", "three"]) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt has no text"),
        ("a.txt", b" \n\n \n", r"a\.txt has no text"),
        ("a.jsonl", b"", r"a\.jsonl has no text"),
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 text"),
        ("a.jsonl", b'"one"\n{"text": ', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'"one"\n\n{"title": "x"}', r"a\.jsonl, line 3 holds no text"),
        ("a.jsonl", b"5", r"a\.jsonl, line 1 holds no text"),
        ("a.jsonl", b'{"text": ["one"]}', r"a\.jsonl, line 1 holds no text"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
    ],
)
def test_a_file_without_text_is_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        read_documents(path)


@pytest.mark.parametrize("path", ["missing.txt", "a\0b", "x" * 5000, ""])
def test_a_file_that_is_none_is_refused(path):
    with pytest.raises(CalibrationError, match="Cannot read"):
        read_documents(path)


@pytest.mark.parametrize("values", [[1, 2], ["one", None], [b"one"]])
def test_a_list_of_other_things_is_refused(values):
    with pytest.raises(CalibrationError, match="must be strings"):
        read_documents(values)


def test_an_empty_list_is_refused():
    with pytest.raises(CalibrationError, match="The list has no text"):
        read_documents([])
