"""Voices behind a server."""

from .fleet import Fleet
from .model import Remote
from .rollouts import Served
from .server import Server

__all__ = ["Fleet", "Remote", "Served", "Server"]
