"""What can go wrong with an audit log."""

from __future__ import annotations


class AuditError(Exception):
    """The root of every error of this package, save for verify.py, which stands alone."""


class VerificationError(AuditError):
    """Evidence (a proof, a signed note, a verifier key) does not hold or cannot be read."""


class WitnessConflict(VerificationError):  # noqa: N818  named by what was found
    """A log shows a checkpoint that does not extend one that it signed before: it was rolled back, or forked."""


class WitnessBehind(VerificationError):  # noqa: N818  named by what was found
    """A log does not say how its checkpoint extends the one that was seen; nothing is wrong with either."""


class RollbackError(AuditError):
    """The party's own log is behind what its witnesses saw of it: nothing is done until that is acknowledged."""


class RetentionError(AuditError):
    """A rule of retention cannot be read, or does not allow what was asked for."""


class AuditKeyError(AuditError):
    """The log's signing key cannot be created or loaded."""


class AuditEventError(AuditError):
    """An event does not fit the format of an entry. Nothing was written, and the log stays usable."""


class AuditWriteError(AuditError):
    """An event could not be recorded durably. The log refuses further appends until it is opened again.

    It stays usable where the thread that was to write the event was interrupted before it began to.
    """


class AuditTampered(AuditWriteError):  # noqa: N818  named by what was found
    """A file of the open log was unlinked, replaced, renamed or changed by someone else."""


class AuditLocked(AuditError):  # noqa: N818  named by what was found
    """Another writer, with process id `pid` where known, holds the log."""

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class AuditCorrupt(AuditError):  # noqa: N818  named by what was found
    """The log on disk is not the one that was signed; `seq` is the first bad entry where one can be named."""

    def __init__(self, message: str, seq: int | None = None) -> None:
        super().__init__(message)
        self.seq = seq
