"""The size of everything that comes from outside, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Upper bounds on untrusted input; bytes unless the name says otherwise."""

    certificate: int = 64 * 1024
    """A PEM certificate with its chain, or a signing request."""
    key_file: int = 64 * 1024
    """A PEM private key."""
    document: int = MIB
    """A YAML document: manifest, run, silo, worker."""
    manifest_signature: int = 8 * 1024
    """The signature of a manifest with the certificate of the authority that made it."""
    request_head: int = 64 * 1024
    """The head of an HTTP request: its first line and its headers."""
    request_headers: int = 100
    """The number of headers of an HTTP request."""
    enrolment_request: int = 64 * 1024
    """A request to the enrolment interface, which strangers reach."""
    submission: int = 128 * 1024
    """What an operator signs of a run: digests, names, times."""
    validity_days: int = 30
    """The days for which an operator's signature over a run may be good."""
    clock_skew: int = 300
    """The seconds by which the clock of whoever signs a run may be ahead of a silo's."""
    run_label: int = 100
    """The id that a coordinator gives to a run, in characters."""
    admissions: int = 100_000
    """The runs that a silo admitted and whose signatures are still good."""
    app: int = 10 * MIB
    """A Flower App Bundle (the same bound as Flower's own)."""
    app_unpacked: int = 64 * MIB
    """The files of an app bundle together, once unpacked."""
    app_files: int = 1000
    """The number of files in an app bundle."""
    app_source: int = 4 * MIB
    """The Python files of an app bundle together."""
    approval: int = 64 * 1024
    """A reviewer's approval, or its revocation."""
    approvals: int = 1000
    """The number of approvals in a silo's directory, and of revocations."""
    control_request: int = 16 * MIB
    """A request to the control interface: a run with its app."""
    control_answer: int = 64 * MIB
    """An answer of the control interface that is no model."""
    answer_depth: int = 64
    """The levels of lists and objects in an answer of the control interface."""
    fleet_request: int = 33 * MIB
    """A request to the Fleet interface: one object and its envelope."""
    fleet_call: int = MIB
    """A request to the Fleet interface that brings no object."""
    pull_request: int = 64 * 1024
    """A silo's request for the messages to it, which is read while nobody else is served."""
    object_chunk: int = 16 * MIB
    """One chunk of weights on the wire."""
    model_values: int = 512 * 1024 * 1024
    """The number of float32 values in a model."""
    shapes: int = MIB
    """The names and shapes of a model's weights, as text."""
    examples: int = 1_000_000_000
    """The number of training rows that one silo may announce."""
    reply_overhead: int = 8 * MIB
    """What a silo's reply may weigh beyond its model's values."""
    message_objects: int = 4096
    """The number of objects in one message."""
    channel_header: int = 4 * MIB
    """The JSON head of a frame between gate and worker."""
    members: int = 1000
    """The members of a federation."""
    authorities: int = 100
    """The institutions' own certificate authorities in a manifest."""
    former_issuers: int = 100
    """The issuing authorities before the present one in a manifest."""
    connections: int = 4096
    """The connections that the gateway holds together."""
    member_connections: int = 64
    """The connections that one member holds together, with whichever certificates."""
    large_body: int = MIB
    """The body of a request, in bytes, from which on it counts as large."""
    large_bodies: int = 4
    """The large bodies of one member that the gateway receives or reads at a time."""
    stranger_connections: int = 256
    """The connections that the enrolment interface holds together."""
    stranger_connections_of_one: int = 64
    """The connections of one network that the enrolment interface holds together."""
    pending_handshakes: int = 1024
    """The connections that have not finished their TLS handshake, together, at each interface."""
    pending_handshakes_of_one: int = 512
    """The connections of one network that have not finished their TLS handshake."""
    worker_handshakes: int = 16
    """The connections to a gate's port for its worker that have not shown yet that they are the worker's."""
    status_requests: int = 8
    """The connections to a process's metrics, health and readiness, together."""
    secure_aggregation: int = 4 * MIB
    """The keys, shares or signatures of a cohort in one message."""
    steps: int = 2**31 - 1
    """The steps that a silo may say it did in a round."""
    private_steps: int = 1_000_000
    """The differentially private steps that a run may plan at one silo."""
    ledger: int = 256 * MIB
    """A silo's privacy ledger."""
    ledger_line: int = 4096
    """One debit in a privacy ledger."""
    receipts: int = 2 * MIB
    """What one message shows of what silos signed of a run's models, in characters."""
    statistics: int = 3 * MIB
    """A silo's statistics, as text."""
    statistics_result: int = 64 * MIB
    """The merged statistics of a run, with each silo's where they are shown."""
    passport: int = 16 * MIB
    """The signed passport of a model."""
    shown_text: int = 4000
    """What a terminal or a process's log shows of one text that came from elsewhere, in characters."""
    event_line: int = MIB
    """One line of a run's event stream."""


LIMITS = Limits()
