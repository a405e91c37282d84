"""HTTP by hand, on a connection of one's own."""

import socket
from urllib.parse import urlsplit

import pytest


def connect(address: str) -> socket.socket:
    """To the server at this address."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def until_closed(connection: socket.socket) -> bytes:
    """What the server sends until it closes; a reset ends it too."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    except TimeoutError:
        pytest.fail(f"the connection is open still, after {received[:99]!r}")
    return received
