"""Every form, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...core.errors import unknown
from .drawn import Drawn
from .form import Form
from .plain import Dense, Exact, States, Target
from .top import Top

FORMS: Mapping[str, type[Any]] = {f.__name__.lower(): f for f in (Dense, Drawn, Exact, States, Target, Top)}


def form_of(facts: Mapping[str, Any]) -> Form:
    """The form that ``Form.facts`` tells of.

    Raises:
        UnknownName: No form has this name.
        SettingError: Its settings are others.
    """
    rest = dict(facts)
    name = str(rest.pop("form", ""))
    if name not in FORMS:
        raise unknown("teacher cache, form", name, FORMS)
    kind = FORMS[name]
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in rest:
        if key not in known:
            raise unknown(f"teacher cache of form {name!r}, setting", key, known)
    return kind(**rest)
