"""Where the peers are looked for, and what is said when they are not there."""

import sys
from pathlib import Path

import pytest

from benchmarks import peers
from tutelage.core.errors import StoreError


@pytest.fixture(autouse=True)
def forgotten():
    peers.versions.cache_clear()
    yield
    peers.versions.cache_clear()


def test_without_an_environment_the_message_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_PEERS", str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match=r"nowhere: got none.*tools\.peers_env.*TUTELAGE_PEERS"):
        peers.interpreter()


def test_an_environment_without_a_peer_is_refused_by_the_peer_s_name(monkeypatch):
    """The interpreter of the tests has tutelage, and not all of the peers."""
    monkeypatch.setattr(peers, "PACKAGES", ("tutelage", "no-such-peer"))
    monkeypatch.setattr(peers, "VERSIONS", peers.VERSIONS.replace("'trl'", "'no-such-peer', 'trl'"))
    monkeypatch.setenv("TUTELAGE_PEERS", str(Path(sys.prefix)))
    with pytest.raises(StoreError, match="without .*no-such-peer"):
        peers.interpreter()
