"""The federation's authority: root and issuing keys, certificates, invitations, and the manifest it signs."""

from coordinator.authority.directory import Authority, request_fingerprint

__all__ = ["Authority", "request_fingerprint"]
