"""What a worker between two pods keeps of the network: TCP to one port, by Landlock's rules (Linux 6.7).

Says what it achieved, or why it could not, for the audit log.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from silo.confinement import PR_SET_NO_NEW_PRIVS

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_NET_PORT = 2
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_FIRST_ABI_WITH_TCP = 4

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64), ("handled_access_net", ctypes.c_uint64))


class _NetPortAttr(ctypes.Structure):
    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def keep_tcp_ports(ports: Iterable[int]) -> str:
    """Let this process and its children open TCP connections to these ports and listen on none; returns what happened.

    Landlock knows ports, not hosts: which host may be reached is the network policy's to say. UDP it does not know.
    """
    allowed = sorted(set(ports))
    abi = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    if abi < _FIRST_ABI_WITH_TCP:
        reason = os.strerror(ctypes.get_errno()) if abi < 0 else f"its Landlock has version {abi}, too old for TCP"
        return f"NOT SEPARATED FROM THE NETWORK: a network policy alone keeps this pod from it ({reason})"
    attributes = _RulesetAttr(0, _BIND_TCP | _CONNECT_TCP)
    ruleset = _libc.syscall(
        _CREATE_RULESET,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        return f"NOT SEPARATED FROM THE NETWORK: Landlock refused the rules ({_reason()})"
    try:
        for port in allowed:
            rule = _NetPortAttr(_CONNECT_TCP, port)
            added = _libc.syscall(
                _ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_NET_PORT), ctypes.byref(rule), ctypes.c_uint32(0)
            )
            if added != 0:
                return f"NOT SEPARATED FROM THE NETWORK: Landlock refused port {port} ({_reason()})"
        if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return f"NOT SEPARATED FROM THE NETWORK: no_new_privs refused ({_reason()})"
        if _libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) != 0:
            return f"NOT SEPARATED FROM THE NETWORK: Landlock refused to apply ({_reason()})"
    finally:
        os.close(ruleset)
    shown = ", ".join(map(str, allowed)) or "none"
    return f"NO EMPTY NETWORK NAMESPACE: TCP to port {shown} alone (Landlock version {abi}), hosts by network policy"


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
