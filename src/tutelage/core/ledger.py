"""The ledger: what every model call cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any


@dataclass
class Account:
    """Totals of one kind of work: calls, tokens, seconds and money in US dollars."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0


class Ledger:
    """Accounts by ``(slot, deed)``, e.g. ``("teacher", "sample")``; safe to write from several threads."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], Account] = {}
        self._lock = threading.Lock()

    def add(
        self, slot: str, deed: str, *, calls: int = 1, tokens: int = 0, seconds: float = 0.0, money: float = 0.0
    ) -> None:
        """Add to the account of a slot's deed."""
        with self._lock:
            account = self._accounts.setdefault((slot, deed), Account())
            account.calls += calls
            account.tokens += tokens
            account.seconds += seconds
            account.money += money

    @contextmanager
    def timed(self, slot: str, deed: str, tokens: int = 0) -> Iterator[None]:
        """Charge the time of the block."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(slot, deed, tokens=tokens, seconds=perf_counter() - start)

    def get(self, slot: str, deed: str) -> Account:
        """The account, empty if nothing was charged."""
        return self._accounts.get((slot, deed), Account())

    def state_dict(self) -> dict[str, Any]:
        """All accounts, JSON-ready."""
        return {f"{slot}/{deed}": asdict(a) for (slot, deed), a in sorted(self._accounts.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace all accounts."""
        self._accounts = {}
        for key, value in state.items():
            slot, deed = key.split("/", 1)
            self._accounts[slot, deed] = Account(**value)
