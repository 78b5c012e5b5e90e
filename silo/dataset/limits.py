"""The size of what a data source may hold, in one place."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on data that is read; bytes unless the name says otherwise."""

    chunk_rows: int = 262_144
    """The number of rows that are in memory at a time, beside the view."""
    csv_block: int = 8 * MIB
    """The part of a CSV file that is parsed at a time; a record is never longer."""
    field: int = 64 * 1024
    """One value of a text."""
    fhir_line: int = 16 * MIB
    """One resource of a FHIR export."""
    credentials: int = 4096
    """The file with the user and the password of a database."""
    record: int = 64 * MIB
    """The figures that an earlier check kept."""
    patients: int = 10_000_000
    """The number of patients in a FHIR export."""


LIMITS = Limits()
