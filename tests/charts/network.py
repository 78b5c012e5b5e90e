"""Pods' networks as namespaces joined by a router, which lets pass what the rendered NetworkPolicies allow."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .rendering import Object


@dataclass(frozen=True)
class Endpoint:
    """A pod's place in the network: its namespace, its address, and the labels that policies select by."""

    name: str
    network: str
    address: str
    labels: Mapping[str, str]


class Network:
    """A router and the pods behind it."""

    def __init__(self, names: Mapping[str, Mapping[str, str]]) -> None:
        self.router = f"c{os.getpid()}-router"
        self.pods = {
            name: Endpoint(name, f"c{os.getpid()}-{name}", f"10.77.{number}.2", labels)
            for number, (name, labels) in enumerate(names.items(), 1)
        }

    def up(self) -> None:
        """Make the namespaces, without any filter."""
        _ip(f"netns add {self.router}")
        _sh(f"ip netns exec {self.router} sysctl -q -w net.ipv4.ip_forward=1")
        for number, pod in enumerate(self.pods.values(), 1):
            _ip(f"netns add {pod.network}")
            _ip(f"-n {self.router} link add to{number} type veth peer name eth0 netns {pod.network}")
            _ip(f"-n {self.router} addr add 10.77.{number}.1/30 dev to{number}")
            _ip(f"-n {self.router} link set to{number} up")
            _ip(f"-n {pod.network} addr add {pod.address}/30 dev eth0")
            _ip(f"-n {pod.network} link set eth0 up")
            _ip(f"-n {pod.network} link set lo up")
            _ip(f"-n {pod.network} route add default via 10.77.{number}.1")

    def enforce(self, policies: Sequence[Object]) -> None:
        """From now on drop what no policy allows."""
        rules = "\n".join(
            f"    ip saddr {source.address} ip daddr {target.address} {protocol} dport {port} accept"
            for source, target, protocol, port in self.allowed(policies)
        )
        table = (
            "table inet policies {\n  chain forward {\n    type filter hook forward priority 0; policy drop;\n"
            f"    ct state established,related accept\n{rules}\n  }}\n}}\n"
        )
        subprocess.run(["ip", "netns", "exec", self.router, "nft", "-f", "-"], input=table, text=True, check=True)

    def allowed(self, policies: Sequence[Object]) -> Iterator[tuple[Endpoint, Endpoint, str, int]]:
        """What may pass: allowed by the egress of the one and by the ingress of the other, as Kubernetes defines it."""
        for source in self.pods.values():
            for target in self.pods.values():
                if source is not target:
                    leaving = _ports(policies, source, target, "egress")
                    entering = _ports(policies, target, source, "ingress")
                    for protocol, port in _both(leaving, entering):
                        yield source, target, protocol, port

    def down(self) -> None:
        """Remove the namespaces and with them everything in them."""
        for name in [self.router, *(pod.network for pod in self.pods.values())]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


Ports = set[tuple[str, int]]


def _ports(policies: Sequence[Object], pod: Endpoint, peer: Endpoint, direction: str) -> Ports | None:
    """The ports that `pod`'s policies open towards `peer`; None where no policy selects it, which leaves all open."""
    kind = direction.capitalize()
    mine = [
        one["spec"]
        for one in policies
        if kind in one["spec"]["policyTypes"] and _selects(one["spec"]["podSelector"], pod.labels)
    ]
    if not mine:
        return None
    found: Ports = set()
    for rule in (rule for policy in mine for rule in policy.get(direction, ())):
        if any(_is(peer, one) for one in rule["to" if direction == "egress" else "from"]):
            found |= {(port["protocol"].lower(), port["port"]) for port in rule["ports"]}
    return found


def _both(leaving: Ports | None, entering: Ports | None) -> Ports:
    if leaving is None and entering is None:
        return {("tcp", 9443), ("tcp", 443), ("udp", 53)}  # nobody's policy selects either
    if leaving is None or entering is None:
        return leaving or entering or set()
    return leaving & entering


def _is(peer: Endpoint, described: Mapping[str, Any]) -> bool:
    if "ipBlock" in described:
        network = ipaddress.ip_network(described["ipBlock"]["cidr"])
        return ipaddress.ip_address(peer.address) in network
    if "namespaceSelector" in described:
        return False  # none of these pods is in another namespace that a policy names
    return _selects(described["podSelector"], peer.labels)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


@contextmanager
def network_of(names: Mapping[str, Mapping[str, str]]) -> Iterator[Network]:
    """A network that is gone afterwards."""
    network = Network(names)
    try:
        network.up()
        yield network
    finally:
        network.down()


def _ip(words: str) -> None:
    _sh(f"ip {words}")


def _sh(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)
