"""Chats as the model was trained to read them: through its tokenizer's own template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from bitplan.errors import CalibrationError


def render_chat(messages: Any, tokenizer: Any, *, where: str) -> str:
    """The text of a chat: a sequence of messages with a `role` and a `content` each.

    `where` names the chat in errors. Raises `CalibrationError` for what is no chat, for a tokenizer
    without a template, and for a chat that the template refuses.
    """
    if not _is_chat(messages):
        raise CalibrationError(
            f"{where}: messages must be a list of objects, each with a role and a content, both "
            "strings. Mend or drop it."
        )
    if tokenizer is None:
        raise CalibrationError(
            f"{where} is a chat, which takes the model's tokenizer to render. Give tokenizer=, or "
            "text."
        )
    if not getattr(tokenizer, "chat_template", None):
        raise CalibrationError(
            f"{where} is a chat, but the model's tokenizer has no chat template. Give the "
            "tokenizer of a model that was trained on chats, or rows with a field text."
        )
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False)
    except (TemplateError, ValueError) as error:
        raise CalibrationError(
            f"{where}: the tokenizer's chat template refuses this chat ({error}). Mend or drop it."
        ) from error


def _is_chat(messages: Any) -> bool:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return False
    return all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )
