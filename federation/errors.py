"""The errors a person can cause or meet, each with what to do about it and its exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `concordat` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


class ConcordatError(Exception):
    """Root of the errors that are shown as one sentence and never as a traceback."""

    exit_code = Exit.FAILED

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = advice

    def __str__(self) -> str:
        """The sentence, followed by what to do."""
        text = super().__str__()
        return f"{text}; {self.advice}" if self.advice else text


class UsageError(ConcordatError):
    """What the user asked for cannot be meant."""

    exit_code = Exit.USAGE


class IdentityError(ConcordatError):
    """A key, certificate or signature is not what it has to be."""


class BundleError(ConcordatError):
    """An app bundle that reviewers could not read whole, that is too large, or that is none."""


class ManifestError(ConcordatError):
    """The federation manifest is wrong, unsigned, foreign or older than one already seen."""


class RefusedError(ConcordatError):
    """A policy or a peer refused; nothing is broken."""

    exit_code = Exit.REFUSED


class UnreachableError(ConcordatError):
    """A peer does not answer."""

    exit_code = Exit.UNREACHABLE


class WireError(ConcordatError):
    """A message from a peer does not have the form that the protocol gives it."""


class SubmissionError(ConcordatError):
    """A run is not submitted as its operator signed it: at another time, at other silos, or once too often."""


class RunFailedError(ConcordatError):
    """A run ended without a model."""
