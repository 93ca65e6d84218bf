"""Chats rendered with the tokenizer's own template, and what cannot be rendered."""

import copy
import json

import pytest

from bitplan.calibration import read_documents
from bitplan.errors import CalibrationError

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ message.role }}> {{ message.content }}\n"
    "{% endfor %}"
)
CHAT = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]


@pytest.fixture
def chatty(tiny_tokenizer):
    """The tokenizer with a chat template."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def file_of(tmp_path):
    def write(*rows):
        path = tmp_path / "chats.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def test_a_chat_is_rendered_and_text_goes_first(chatty, file_of):
    path = file_of(
        {"messages": CHAT},
        {"messages": CHAT[:1], "text": "as it is"},
        {"messages": CHAT[:1], "text": None, "id": 4},
        "plain",
    )
    assert read_documents(path, lambda: chatty) == [
        "<user> w1 w2\n<assistant> w3\n",
        "as it is",
        "<user> w1 w2\n",
        "plain",
    ]


def test_a_tokenizer_without_a_template_is_refused(tiny_tokenizer, file_of):
    path = file_of("plain", {"messages": CHAT})
    message = r"line 2 is a chat, but the model's tokenizer has no chat template"
    with pytest.raises(CalibrationError, match=message):
        read_documents(path, lambda: tiny_tokenizer)
    with pytest.raises(CalibrationError, match="line 2 is a chat, which takes the model's tok"):
        read_documents(path)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        {},
        {"role": "user", "content": "w1"},
        ["hello"],
        [{"role": "user"}],
        [{"content": "w1"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [*CHAT, 5],
    ],
)
def test_what_is_no_chat_is_refused(messages, chatty, file_of):
    with pytest.raises(CalibrationError, match=r"line 1: messages must be a list of objects"):
        read_documents(file_of({"messages": messages}), lambda: chatty)


def test_a_chat_that_the_template_refuses_is_named(chatty, file_of):
    path = file_of({"messages": CHAT}, {"messages": [{"role": "tool", "content": "w1"}]})
    with pytest.raises(CalibrationError, match=r"line 2: .* refuses this chat \(no tools here\)"):
        read_documents(path, lambda: chatty)
