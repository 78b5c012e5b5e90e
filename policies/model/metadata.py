"""Which policy it is, and what stands beside the rules: attestations and the model inventory."""

from policies.document import Closed
from policies.scalars import IsoDate, Name, PositiveInt, Text


class Metadata(Closed):
    """Which policy this is and who answers for it."""

    name: Name
    """Name of the policy, as it appears in decisions."""
    version: PositiveInt
    """Number of this version; a newer policy has a higher one."""
    owner: Text
    """Who answers for this policy."""
    effective: IsoDate
    """First day (UTC) on which the policy allows anything."""


class Reference(Closed):
    """A document on which the processing rests, with the day on which it ends."""

    ref: Text
    """Reference of the document."""
    expires: IsoDate
    """Last day (UTC) on which it is valid."""


class Attestation(Closed):
    """Something that someone has attested of this institution, such as c5-type-2, with the day on which it ends."""

    name: Name
    """What is attested; laws that apply may ask for one by its name."""
    ref: Text
    """Reference of the attestation."""
    expires: IsoDate
    """Last day (UTC) on which it is valid."""


class Inventory(Closed):
    """The entry of the trained model in the institution's model inventory."""

    ref: Text
    """Reference of the entry, recorded with the policy."""
    owner: Text
    """Who answers for the model, recorded with the policy."""
    validated: Reference
    """The model's validation, and the day on which the next is due."""
