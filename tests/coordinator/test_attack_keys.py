"""A silo that sends keys or shares with which the others cannot go on: it is left out, and the others' sum opens."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.identity import load_certificate
from federation.secure_aggregation.cohort import advert_of, advertise, by_name, bytes_by_name, text_of
from federation.secure_aggregation.masks import SEALED_BYTES, SHARE_BYTES, public_bytes
from federation.wire import Envelope, Kind
from tests.secure_aggregation.attempt import PLACE, Silos

from .test_secure_rounds import STEPS, Conducted, silos

__all__ = ["silos"]

KEY = public_bytes(X25519PrivateKey.generate())
ZERO, ONE = bytes(32), (1).to_bytes(32, "little")
EIGHTH = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


@pytest.mark.parametrize(
    "keys",
    [
        {"mask_key": ZERO},
        {"mask_key": ONE},
        {"mask_key": EIGHTH},
        {"share_key": ZERO},
        {"share_key": EIGHTH},
        {"mask_key": KEY, "share_key": KEY},
    ],
)
@pytest.mark.parametrize("at", [0, -1])
def test_keys_that_agree_on_nothing_cost_their_silo_alone(silos: Silos, keys: dict[str, bytes], at: int) -> None:
    bad = silos.names[at]
    home = silos.homes[bad]

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope:
        if (kind, name) != (Kind.KEYS, bad):
            return answer
        made = advert_of(answer.text("advert"))
        told = {"mask_key": made.mask_key, "share_key": made.share_key, **keys}
        certificate = load_certificate(home.certificate.read_bytes())
        advert = advertise(bad, home.private_key(), certificate, PLACE, **told, commitment=made.commitment)
        conducted.dialogue.silos[bad].member.advert = advert  # and goes on
        return Envelope({"advert": text_of(advert.fields())})

    conducted = Conducted(silos, spoil)
    conducted.expect(conducted.open(), tuple(name for name in silos.names if name != bad))
    assert conducted.dialogue.asked == list(STEPS)


@pytest.mark.parametrize("size", [0, SEALED_BYTES - 1, SEALED_BYTES + 1, 3_145_600])
def test_shares_that_no_message_can_hold_cost_their_silo_alone(silos: Silos, size: int) -> None:
    """What one silo seals for another goes on to it with what all the others sealed for it."""
    bad = silos.names[0]

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope:
        if (kind, name) != (Kind.SHARES, bad):
            return answer
        # The longest fits into the answer where nothing is sealed for the rest.
        sealed = {to: b"" if size > 1000 else own for to, own in bytes_by_name(answer.text("sealed")).items()}
        return Envelope({"sealed": by_name({**sealed, silos.names[1]: bytes(size)})})

    conducted = Conducted(silos, spoil)
    conducted.expect(conducted.open(), silos.names[1:])
    assert conducted.dialogue.asked == list(STEPS)


@pytest.mark.parametrize("lost", [(), ("silo-03",)])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_silo_that_reveals_wrong_shares_keeps_no_sum_closed(silos: Silos, at: int, lost: tuple[str, ...]) -> None:
    """Three of five shares suffice: those of the honest ones are among them."""
    bad = silos.names[at]

    def spoil(kind: str, name: str, answer: Envelope) -> Envelope | None:
        if name in lost and kind == Kind.MASKED:
            return None
        if (kind, name) != (Kind.UNMASK, bad):
            return answer
        wrong = {whose: (7).to_bytes(SHARE_BYTES) for whose in bytes_by_name(answer.text("shares"))}
        return Envelope({"shares": by_name(wrong)})

    conducted = Conducted(silos, spoil)
    conducted.expect(conducted.open(), tuple(name for name in silos.names if name not in lost))
    assert conducted.dialogue.asked == list(STEPS)
