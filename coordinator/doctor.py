"""The examination of a coordinator, where it runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from cryptography import x509

from federation.addresses import split_address
from federation.doctor.checks import check_certificate, check_disk, check_manifest, check_name, check_permissions
from federation.doctor.findings import Finding, examine, failure, ok, warning
from federation.home import Home, read_limited
from federation.identity import load_certificate
from federation.limits import LIMITS
from federation.manifest import load_manifest

SECONDS = 5.0


def examine_coordinator(home: Home) -> list[Finding]:
    """Examine a coordinator's home, and whether it is where the manifest says."""
    found = list(
        examine(
            [
                ("permissions", lambda: check_permissions(home)),
                ("certificate", lambda: check_certificate(home)),
                ("manifest", lambda: check_manifest(home)),
                ("disk", lambda: check_disk(home)),
            ]
        )
    )
    try:
        addresses = load_manifest(home).federation.coordinator.addresses
    except Exception:  # noqa: BLE001  the manifest's own check has said what is wrong with it
        return found
    if not addresses:
        remedy = "enrol the coordinator with --address host:port, at which members reach it"
        return [*found, failure("address", "the manifest has no address for the coordinator", remedy)]
    reach = [
        ("address", lambda: _check_address(home, addresses[0])),
        ("name service", lambda: check_name(addresses[0])),
        ("listening", lambda: _check_listening(addresses[0])),
    ]
    return found + list(examine(reach))


def _check_address(home: Home, address: str) -> Iterator[Finding]:
    """The certificate carries the host that members connect to."""
    certificate = load_certificate(read_limited(home.certificate, LIMITS.certificate))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    host, _ = split_address(address)
    if host in known:
        yield ok("address", f"the certificate is for {host}")
    else:
        detail = f"the certificate is for {', '.join(known) or 'no host'}, the manifest says {host}"
        yield failure("address", detail, "request a certificate for the address in the manifest")


def _check_listening(address: str) -> Iterator[Finding]:
    try:
        socket.create_connection(split_address(address), timeout=SECONDS).close()
    except OSError as error:
        detail = f"{address} does not answer from here: {error}"
        yield warning(
            "listening", detail, "start it, or see from outside whether what stands before it lets TLS through"
        )
    else:
        yield ok("listening", f"{address} answers")
