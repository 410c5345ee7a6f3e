"""Endpoints of the event publisher: bound, connected to, or refused; one for each rank."""

import inspect
import re
import socket

import pytest
import zmq
from support.event_clients import Clients, batch, live_until, publish_until_seen

from kvgpu.errors import ConfigError
from kvgpu.publishing.endpoints import check_endpoint
from kvgpu.publishing.publisher import ZmqEventPublisher, is_bound, offset_endpoint


def addresses_of_this_host():
    """Of interfaces other than the loopback one: as many as are known without asking anybody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            return []
        return [probe.getsockname()[0]]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def client():
    clients = Clients()
    yield clients
    clients.close()


WHAT_TO_WRITE = r"write tcp://127\.0\.0\.1:PORT"
OF_THIS_HOST = [
    "tcp://*:5557",
    "tcp://0.0.0.0:5557",
    "tcp://127.0.0.1:5557",
    "tcp://127.8.9.10:5557",
    "tcp://localhost:5557",
    "tcp://lo:5557",
    "tcp://[::]:5557",
    "tcp://[0:0:0:0:0:0:0:0]:5557",
    "tcp://:::5557",
    "tcp://*:*",
    "ipc:///tmp/cache",
    "ipc://@cache",
    "inproc://cache",
    *(f"tcp://{address}:5557" for address in addresses_of_this_host()),
]
OF_OTHERS = [
    "tcp://router:5557",
    "tcp://router.kv-events.svc.cluster.local:5557",
    "tcp://my_router:5557",
    "tcp://3com:5557",
    "tcp://198.51.100.1:5557",
    "tcp://[2001:db8::1]:5557",
    "tcp://[2001:db8:0:0:0:0:0:1]:5557",
    "tcp://127.0.0.1:1234;198.51.100.1:5557",
]


@pytest.mark.parametrize("endpoint", OF_THIS_HOST)
def test_what_is_of_this_host_is_bound(endpoint):
    assert is_bound(endpoint) is True
    check_endpoint(endpoint)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_the_ipv6_loopback_is_of_this_host():
    assert is_bound("tcp://[::1]:5557") is True


@pytest.mark.parametrize("endpoint", OF_OTHERS)
def test_other_hosts_are_connected_to(endpoint):
    assert is_bound(endpoint) is False
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5557",
        "router:5557",
        None,
        "tcp://",
        "tcp://router",
        "tcp://:5557",
        "tcp://*",
        "tcp://[::1]",
        "tcp://::1",
        "tcp://*:port",
        "tcp://*:65536",
        "tcp://*:-1",
        "tcp://*:²",
        "tcp://router:*",
        "tcp://router:0",
        "tcp://my router:5557",
        "tcp://http://router:5557",
        "tcp://300.1.1.1:5557",
        "tcp://1.2.3:5557",
        "tcp://224.0.0.1:5557",
        "tcp://255.255.255.255:5557",
        "tcp://[ff02::1]:5557",
    ],
)
def test_what_nobody_can_be_reached_by_is_refused_and_the_message_says_what_to_write(endpoint):
    with pytest.raises(ConfigError, match=WHAT_TO_WRITE):
        check_endpoint(endpoint)
    with pytest.raises(ConfigError, match=WHAT_TO_WRITE):
        ZmqEventPublisher(endpoint=endpoint)


@pytest.mark.parametrize("endpoint", ["nowhere://here", "udp://127.0.0.1:5557", "ipc://"])
def test_what_zeromq_cannot_open_is_a_config_error(endpoint):
    with pytest.raises(ConfigError, match=re.escape(endpoint) + ".*" + WHAT_TO_WRITE):
        ZmqEventPublisher(endpoint=endpoint)


def test_a_replay_endpoint_of_another_host_is_refused():
    with pytest.raises(ConfigError, match=r"198\.51\.100\.1"):
        ZmqEventPublisher(endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://198.51.100.1:5558").shutdown()


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:*", "tcp://localhost:0", "tcp://0.0.0.0:*", "tcp://*:*", "tcp://lo:*"]
)
def test_a_subscriber_gets_what_is_published_at_an_endpoint_of_this_host(endpoint, client):
    publisher = ZmqEventPublisher(endpoint=endpoint)
    port = publisher.endpoint.rpartition(":")[2]
    subscriber = client(zmq.SUB, f"tcp://127.0.0.1:{port}")
    publish_until_seen(publisher, subscriber)
    publisher.publish(batch(1.0))
    live_until(subscriber, 1.0)
    publisher.shutdown()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["[::1]", "[::]", "::"])
def test_a_subscriber_gets_what_is_published_over_ipv6(host, client):
    publisher = ZmqEventPublisher(endpoint=f"tcp://{host}:*", replay_endpoint=f"tcp://{host}:*")
    port = publisher.endpoint.rpartition(":")[2]
    subscriber = client(zmq.SUB, f"tcp://[::1]:{port}", IPV6=1)
    publish_until_seen(publisher, subscriber)
    publisher.publish(batch(1.0))
    live_until(subscriber, 1.0)
    publisher.shutdown()


def test_a_publisher_connects_to_a_subscriber_on_another_host_by_name(client):
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        pytest.skip("this host cannot resolve its own name")
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    client.sockets.append(subscriber)
    subscriber.RCVTIMEO = 10_000
    subscriber.subscribe(b"")
    port = subscriber.bind_to_random_port(f"tcp://{address}")
    publisher = ZmqEventPublisher(endpoint=f"tcp://{name}:{port}")
    publish_until_seen(publisher, subscriber)
    publisher.shutdown()


def test_events_go_to_this_host_alone_unless_another_endpoint_is_given():
    default = inspect.signature(ZmqEventPublisher).parameters["endpoint"].default
    assert default == "tcp://127.0.0.1:5557"
    assert is_bound(default)


@pytest.mark.parametrize(
    ("endpoint", "rank", "expected"),
    [
        ("tcp://*:5557", 0, "tcp://*:5557"),
        ("tcp://*:5557", 2, "tcp://*:5559"),
        ("tcp://[::1]:5557", 2, "tcp://[::1]:5559"),
        ("tcp://[fe80::1%eth0]:5557", 1, "tcp://[fe80::1%eth0]:5558"),
        ("tcp://:::5557", 2, "tcp://:::5559"),
        ("tcp://*:*", 2, "tcp://*:*"),
        ("tcp://*:0", 2, "tcp://*:0"),
        ("inproc://cache", 1, "inproc://cache_dp1"),
        ("ipc:///tmp/cache", 0, "ipc:///tmp/cache"),
    ],
)
def test_each_rank_has_an_endpoint_of_its_own(endpoint, rank, expected):
    assert offset_endpoint(endpoint, rank) == expected


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/cache", "tcp://host", "tcp://[::1]", "tcp://host:²", "tcp://*:65535"])
def test_an_endpoint_without_port_for_the_rank_cannot_be_offset(endpoint):
    with pytest.raises(ConfigError, match="rank 1"):
        offset_endpoint(endpoint, 1)


def test_there_is_no_rank_below_0():
    with pytest.raises(ConfigError, match="-1"):
        offset_endpoint("tcp://*:5557", -1)
