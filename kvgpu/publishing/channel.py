"""A ZeroMQ socket of one thread."""

import logging
from threading import Thread
from typing import Any

import zmq

from kvgpu.errors import ConfigError
from kvgpu.publishing.endpoints import FORMS, check_endpoint, is_bound, needs_ipv6, offset_endpoint

Options = dict[zmq.SocketOption, int]

logger = logging.getLogger(__name__)

SHARED = ("inproc://",)
"""Transports that connect only sockets of the same context."""
LINGER_MS = 1000
"""How long a closed socket goes on sending to slow peers, in milliseconds."""
PATIENCE_S = 5.0
"""How long closing waits beyond that, in seconds: a context of ZeroMQ was once seen not to end at all."""
LARGEST_FRAME = 1 << 16
"""Most bytes of a frame that a peer may send (a subscription or a request). A larger frame ends its connection."""


def is_fatal(error: BaseException) -> bool:
    """Whether a socket that raised this error can never be used again: the socket or its context is closed."""
    return isinstance(error, zmq.ZMQError) and error.errno in (zmq.ETERM, zmq.ENOTSOCK)


class Channel:
    """A socket, bound or connected, and its context, which sends pending messages before it ends.

    Each channel has a separate context, except with a `SHARED` transport: then it uses `zmq.Context.instance()`, which
    others may terminate. A channel is made in one thread and then used by one other thread only.

    Args:
        kind: `zmq.PUB` or `zmq.ROUTER`.
        endpoint: Endpoint of rank 0.
        rank: Data-parallel rank; see `offset_endpoint`.
        options: Option -> value, set before the socket is opened.
        bind: Whether to bind; None binds endpoints of this host and connects to all others.

    Raises:
        ConfigError: The endpoint cannot be opened, or an option cannot be set.
    """

    def __init__(self, kind: int, endpoint: str, rank: int, options: Options, bind: bool | None = None) -> None:
        check_endpoint(endpoint)
        endpoint = offset_endpoint(endpoint, rank)
        self.is_shared = endpoint.startswith(SHARED)
        self._context: zmq.Context[Any] = zmq.Context.instance() if self.is_shared else zmq.Context()
        try:
            self.socket: zmq.Socket[bytes] = self._context.socket(kind)
            self._open(endpoint, options, is_bound(endpoint) if bind is None else bind)
        except BaseException as error:
            self.close(0)
            if not isinstance(error, zmq.ZMQError | OverflowError | TypeError):
                raise
            hint = "" if getattr(error, "errno", None) == zmq.EADDRINUSE else f"; {FORMS}"
            raise ConfigError(f"cannot open {endpoint!r} for events: {error}{hint}") from error

    def _open(self, endpoint: str, options: Options, bind: bool) -> None:
        self.socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_FRAME)
        self.socket.setsockopt(zmq.IPV6, needs_ipv6(endpoint))
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        (self.socket.bind if bind else self.socket.connect)(endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        logger.info("%s %s for events", "Bound" if bind else "Connected to", self.endpoint)

    def check(self) -> None:
        """Check that the socket can still be used; raise a fatal error if not."""
        self.socket.getsockopt(zmq.EVENTS)

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the socket, wait at most `linger_ms` until pending messages are sent, and free the port.

        A context that does not end within `PATIENCE_S` more is left to itself, with a warning.
        """
        if hasattr(self, "socket"):
            self.socket.close(linger=linger_ms)
        if self.is_shared:
            return
        ending = Thread(target=self._context.term, name="kvgpu-close", daemon=True)
        try:
            ending.start()
        except RuntimeError:  # the interpreter ends, and starts no thread
            self._context.term()
            return
        ending.join(linger_ms / 1000 + PATIENCE_S)
        if ending.is_alive():
            logger.warning("A socket for events was closed, but ZeroMQ has not ended: a thread of it stays")
