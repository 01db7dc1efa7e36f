"""Silence for a library that talks while it loads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import modeling_gguf_pytorch_utils as gguf_reading
from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the model library inside the block; its settings come back after."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    shown = gguf_reading.tqdm
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf_reading.tqdm = lambda items, **_: items  # it draws its own bar, past the library's switch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf_reading.tqdm = shown
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
