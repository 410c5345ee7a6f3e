"""A ZeroMQ socket of one thread."""

import logging
from typing import Any

import zmq

from kvgpu.errors import ConfigError
from kvgpu.publishing.endpoints import FORMS, check_endpoint, is_bound, needs_ipv6, offset_endpoint

Options = dict[zmq.SocketOption, int]

logger = logging.getLogger(__name__)

SHARED = ("inproc://",)
"""Transports whose peers have to be of one context."""
LINGER_MS = 1000
"""How long a socket that is closed goes on sending what peers are slow to take."""
LARGEST_FRAME = 1 << 16
"""Bytes of a frame that a peer may send: a subscription or a request. Larger ones end its connection."""


def is_fatal(error: BaseException) -> bool:
    """Whether a socket that raised this can never be used again: its context or itself is closed."""
    return isinstance(error, zmq.ZMQError) and error.errno in (zmq.ETERM, zmq.ENOTSOCK)


class Channel:
    """A socket, bound or connected, and the context that sends what it was given to the end.

    That is a context of its own, or `zmq.Context.instance()`, which others may terminate, where
    the transport is `SHARED`. A channel is made in one thread and then used by another one alone.

    Args:
        kind: `zmq.PUB` or `zmq.ROUTER`.
        endpoint: Of rank 0.
        rank: Data-parallel rank, see `offset_endpoint`.
        options: Option -> value, set before the socket is opened.
        bind: Whether to bind; None to bind what is of this host and to connect to the rest.

    Raises:
        ConfigError: The endpoint cannot be opened, or an option not be set.
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
        """Raise a fatal error if the socket cannot be used any more."""
        self.socket.getsockopt(zmq.EVENTS)

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the socket; wait so long for what it was given to be sent. The port is free then."""
        if hasattr(self, "socket"):
            self.socket.close(linger=linger_ms)
        if not self.is_shared:
            self._context.term()
