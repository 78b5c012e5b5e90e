"""Certificate signing requests: what a member may ask for, which is its own name and nothing else."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.errors import IdentityError
from federation.identity import UNREADABLE, public_key_pem
from federation.limits import LIMITS


def parse_signing_request(pem: str, name: str) -> x509.CertificateSigningRequest:
    """Read a signing request (RFC 2986) of a member; raises IdentityError.

    It must be signed by the key it carries (P-256 or P-384) and name this member alone. What a certificate says
    beside the key comes from the manifest, so a request for other names or uses is refused and not ignored.
    """
    content = pem.encode()
    if len(content) > LIMITS.certificate:
        raise IdentityError(f"got a signing request of {len(content)} bytes, expected at most {LIMITS.certificate}")
    try:
        csr = x509.load_pem_x509_csr(content)
        signed = csr.is_signature_valid
        subject = [(attribute.oid, attribute.value) for attribute in csr.subject]
        extensions = [extension.oid.dotted_string for extension in csr.extensions]
        key = csr.public_key()
    except UNREADABLE:
        raise IdentityError("the request holds no usable PEM certificate signing request") from None
    if not signed:
        raise IdentityError("the signing request is not signed by the key it asks a certificate for")
    public_key_pem(key)
    if subject != [(NameOID.COMMON_NAME, name)]:
        asked = csr.subject.rfc4514_string()[:200]
        raise IdentityError(f"the signing request asks for {asked!r}, expected the member's own name 'CN={name}'")
    if extensions:
        raise IdentityError(
            f"the signing request asks for extensions ({', '.join(extensions)[:200]}), expected none: "
            "names and uses come from the manifest"
        )
    return csr
