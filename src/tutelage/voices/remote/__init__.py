"""Voices behind a server."""

from .model import Remote
from .server import Server

__all__ = ["Remote", "Server"]
