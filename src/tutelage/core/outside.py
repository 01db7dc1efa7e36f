"""A function that lives in the user's own Python file, under the file's name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import SettingError, StoreError


def function_of(path: Path, noun: str, expected: str, fits: Callable[[Any], bool] = callable) -> Any:
    """What a file calls by its own name.

    Args:
        path: The file; it is run.
        noun: What is wanted of it, for messages.
        expected: What the file should hold, for messages.
        fits: Whether what was found is it.

    Raises:
        StoreError: There is no such file.
        SettingError: It does not import, or holds nothing that fits.
    """
    where = f"{noun} {path}"
    if not path.is_file():
        raise StoreError(where, got="no such file", expected="a Python file", remedy="Check the path.")
    spec = importlib.util.spec_from_file_location(f"tutelage_{noun.partition(' ')[0]}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingError(
            where,
            got=f"{type(error).__name__}: {error}",
            expected="a file that imports",
            remedy="Run it with python to see the whole traceback.",
        ) from error
    found = getattr(module, path.stem, None)
    if not fits(found):
        raise SettingError(
            where,
            got=f"nothing of that kind named {path.stem!r}",
            expected=expected,
            remedy="Name the function like the file.",
        )
    return found
