"""The Pod Security Standard `restricted`, control by control, as Kubernetes publishes it (v1.33)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
PROFILES = frozenset({"RuntimeDefault", "Localhost"})


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """What of a pod (metadata and spec) the standard forbids."""
    spec = pod["spec"]
    inherited = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for sysctl in inherited.get("sysctls", ()):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for volume in spec.get("volumes", ()):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is of type {kind}"
    for name in pod["metadata"].get("annotations", {}):
        if name.startswith("container.apparmor.security.beta.kubernetes.io/"):
            yield f"annotation {name}"
    containers = [*spec.get("initContainers", ()), *spec["containers"], *spec.get("ephemeralContainers", ())]
    for container in containers:
        yield from (f"{container['name']}: {what}" for what in _of_container(container, inherited))


def _of_container(container: dict[str, Any], inherited: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    either = {**inherited, **own}
    capabilities = own.get("capabilities", {})
    checks = {
        "privileged": own.get("privileged"),
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is not False,
        "capabilities are not dropped": "ALL" not in capabilities.get("drop", ()),
        "runAsNonRoot is not true": either.get("runAsNonRoot") is not True,
        "runAsUser is 0": either.get("runAsUser") == 0,
        "no seccomp profile": either.get("seccompProfile", {}).get("type") not in PROFILES,
        "procMount": own.get("procMount", "Default") != "Default",
        "SELinux type": either.get("seLinuxOptions", {}).get("type", "") not in SELINUX_TYPES,
        "AppArmor is off": either.get("appArmorProfile", {}).get("type", "") == "Unconfined",
        "hostPort": any(port.get("hostPort") for port in container.get("ports", ())),
    }
    yield from (what for what, found in checks.items() if found)
    for added in set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"capability {added}"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe, {}).get("httpGet", {}).get("host"):
            yield f"{probe} names a host"
