"""Who a node is, from the names of stack and node alone: no discovery, no counter, no index.

The same names always give the same MAC, UUID and address, so dropping one node moves no other.
"""

from __future__ import annotations

import hashlib
import uuid
from ipaddress import IPv4Address, IPv4Network

_NAMESPACE = uuid.UUID("6f5c1f0e-1a7b-5d0a-9a53-6c6179657231")
_RESERVED_AT_START = 10
"""Addresses left free at the start of the network: the host's own, and room for virtual addresses."""


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def mac_address(stack: str, node: str) -> str:
    """Return the node's MAC in QEMU's own prefix (52:54:00)."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in _digest("mac", stack, node)[:3])


def domain_uuid(stack: str, node: str) -> str:
    """Return the domain's UUID; vTPM state and Talos disk keys hang on it, so it never changes."""
    return str(uuid.uuid5(_NAMESPACE, f"{stack}/{node}"))


def address(stack: str, node: str, network: IPv4Network) -> IPv4Address:
    """Return the node's own address; two names can meet on one, which `layer1.config` tells."""
    first = _RESERVED_AT_START if network.num_addresses > 32 else 2
    room = network.num_addresses - first - 1
    return network[first + int.from_bytes(_digest("ip", stack, node)[:8]) % room]


def bridge_name(stack: str, host: str) -> str:
    """Return the name of the network's bridge, within the kernel's 15 characters."""
    return "l1-" + _digest("bridge", stack, host).hex()[:8]


def resource_prefix(stack: str) -> str:
    """Return what the names of the stack's libvirt network, pool and domains start with."""
    return f"layer1-{stack}"


def content_id(*parts: str) -> str:
    """Return 12 hex digits that name a content, for volume names that must differ when it does."""
    return _digest("content", *parts).hex()[:12]
