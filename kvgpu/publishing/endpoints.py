"""Endpoints: which ones a publisher binds, which ones it connects to, and which ones are invalid."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from kvgpu.errors import ConfigError

FORMS = (
    "write tcp://127.0.0.1:PORT or tcp://[::1]:PORT to serve this host, tcp://*:PORT or "
    "tcp://[::]:PORT to serve every interface, tcp://HOST:PORT to connect to a subscriber that "
    "binds on another host, ipc://PATH or inproc://NAME"
)
ANY_PORT = ("*", "0")
"""Ports that let the system choose one."""
LARGEST_PORT = 65535

_TCP, _LOCAL = "tcp://", ("ipc://", "inproc://")
_NAME = re.compile(r"[\w.-]*[a-z_-][\w-]*\.?", re.IGNORECASE | re.ASCII)
"""Names of hosts. Their last label is not a number; that of an address is."""


class TcpAddress(NamedTuple):
    """Host (without brackets) and port of a tcp endpoint; each is empty if it is missing."""

    host: str
    port: str

    @classmethod
    def of(cls, endpoint: str) -> "TcpAddress":
        # In ZeroMQ, a source address may come first, before a semicolon.
        destination = endpoint.removeprefix(_TCP).rpartition(";")[2]
        host, _, port = destination.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        return cls(host, port)

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_of_this_host(self) -> bool:
        """Whether the host is a wildcard, `localhost`, a loopback address, an interface or the address of one."""
        ip = self.ip
        if ip is None:
            return self.host in ("*", "localhost", *_interfaces())
        return ip.is_unspecified or ip.is_loopback or _has_address(self.host)


def _interfaces() -> list[str]:
    try:
        return [name for _, name in socket.if_nameindex()]
    except OSError:
        return []


def _has_address(address: str) -> bool:
    """Whether an interface has this address; no other address can be bound. Sends nothing."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True


def is_bound(endpoint: str) -> bool:
    """Return whether an endpoint is of this host: a publisher binds these and connects to all others.

    Endpoints of this host are wildcards, loopback addresses, `localhost`, names and addresses of interfaces, `ipc` and
    `inproc`. All other names are those of other hosts. O(interfaces).
    """
    if endpoint.startswith(_TCP):
        return ";" not in endpoint and TcpAddress.of(endpoint).is_of_this_host
    return endpoint.startswith(_LOCAL) or "*" in endpoint


def needs_ipv6(endpoint: str) -> bool:
    """Return whether the host is an IPv6 address. O(1)."""
    return endpoint.startswith(_TCP) and ":" in TcpAddress.of(endpoint).host


def offset_endpoint(endpoint: str, rank: int) -> str:
    """Return the endpoint of one data-parallel rank: a tcp port grows by the rank, an inproc name gets a suffix.

    A port that the system chooses is unchanged: it differs from rank to rank anyway. O(1).

    Raises:
        ConfigError: The rank is below 0; or it is above 0, and the transport is another one, the tcp endpoint has no
            port, or the port would be too large.
    """
    if rank == 0:
        return endpoint
    if rank < 0:
        raise ConfigError(f"a data-parallel rank is 0 or more, got {rank}")
    if endpoint.startswith("inproc://"):
        return f"{endpoint}_dp{rank}"
    base, _, port = endpoint.rpartition(":")
    if endpoint.startswith(_TCP) and port in ANY_PORT:
        return endpoint
    if not (endpoint.startswith(_TCP) and _is_port(port)):
        raise ConfigError(
            f"no endpoint for data-parallel rank {rank} follows from {endpoint!r}: give a tcp "
            "endpoint with a port, or an inproc one"
        )
    if int(port) + rank > LARGEST_PORT:
        raise ConfigError(
            f"the port for data-parallel rank {rank} of {endpoint!r} would be {int(port) + rank}, "
            f"but the largest one is {LARGEST_PORT}: choose a lower port"
        )
    return f"{base}:{int(port) + rank}"


def _is_port(port: str) -> bool:
    return port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= LARGEST_PORT


def check_endpoint(endpoint: str) -> None:
    """Check the form of an endpoint; ZeroMQ accepts some forms that can never reach a peer.

    Raises:
        ConfigError: The endpoint can be neither bound nor connected to; the message lists the valid forms.
    """
    wrong = None
    if not isinstance(endpoint, str) or "://" not in endpoint:
        wrong = "this is not an endpoint"
    elif endpoint.startswith(_TCP):
        wrong = _wrong_with_tcp(endpoint)
    if wrong is not None:
        raise ConfigError(f"endpoint {endpoint!r}: {wrong}; {FORMS}")


def _wrong_with_tcp(endpoint: str) -> str | None:
    address = TcpAddress.of(endpoint)
    ip = address.ip
    if not address.host:
        return "host or port is missing"
    if ip is not None and (ip.is_multicast or (ip.version == 4 and ip.is_reserved)):
        return f"{address.host} is not the address of a single host"
    if not (_is_port(address.port) or address.port == "*"):
        return f"a port is a number up to {LARGEST_PORT}, got {address.port!r}"
    if is_bound(endpoint):
        return None
    if address.port in ANY_PORT:
        return f"{address.host} is not this host, and a connection needs a port"
    if ip is None and not _NAME.fullmatch(address.host):
        return f"{address.host!r} is neither an address nor the name of a host"
    return None
