"""Docstrings mark a literal block by ``::``; Markdown needs only the indentation, so the mark is taken off."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

MARK = re.compile(r"^(?P<text>.*?)[ \t]*::[ \t]*$", re.MULTILINE)


class Literal(Extension):
    """Takes the mark off every docstring."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.is_alias or obj.docstring is None:
            return
        obj.docstring.value = MARK.sub(_without_mark, obj.docstring.value)


def _without_mark(found: re.Match[str]) -> str:
    return f"{found['text']}:" if found["text"].strip() else ""
