"""A name server that knows no name, for throwaway engines: their network has no way out."""

from __future__ import annotations

import socketserver
import threading

#: An address for documentation (RFC 5737), which no network has.
ADDRESS = "198.51.100.53"
_HEADER = 12
#: An answer, recursion available, the name does not exist (RFC 1035, 4.1.1).
_NO_SUCH_NAME = b"\x81\x83"


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, socket = self.request
        end = query.find(b"\0", _HEADER) + 5  # after the name, its type and its class
        if end > _HEADER + 5:
            socket.sendto(query[:2] + _NO_SUCH_NAME + b"\0\1" + bytes(6) + query[_HEADER:end], self.client_address)


def start() -> None:
    """Answer on UDP at ``ADDRESS``, which the machine must have, until the process ends.

    Without an answer, Docker's own name server is silent as well, and each lookup of a name takes many seconds.
    """
    server = socketserver.ThreadingUDPServer((ADDRESS, 53), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
