"""Whether the place a gate finds itself in is the one that its policy names; pure."""

from __future__ import annotations

from federation.errors import ManifestError
from policies.document import Document
from policies.model import SiloPolicy
from silo.config import Place

REGION_VARIABLE = "CONCORDAT_NODE_REGION"
"""The region of the node this process runs on, where its environment can tell (a pod's topology label, for one)."""


def check_place(place: Place | None, region: str, policy: Document[SiloPolicy]) -> dict[str, str]:
    """Compare what the configuration says with the policy and the node; returns what to record, raises ManifestError.

    `region` is empty where the environment does not tell.
    """
    if place is None:
        return {}
    named = policy.model.residency.silo
    if place.country != named:
        raise ManifestError(
            f"this gate is told that it runs in {place.country}, expected {named}, where its policy places the silo "
            f"({policy.locate(('residency', 'silo'))})",
            advice="run it where the policy says, or have the policy's owner change it",
        )
    if region and place.regions and region not in place.regions:
        raise ManifestError(
            f"this gate runs on a node in region {region[:63]!r}, expected one of {', '.join(place.regions)}, "
            f"which lie in {place.country}",
            advice="schedule it in one of them, or correct the list of regions",
        )
    return {"country": place.country, "region": region[:63] or "not told"}
