"""The federations the demonstration can found: who takes part, and where each institution's table comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from federation.errors import ConcordatError, UnreachableError, UsageError
from federation.home import read_limited
from federation.limits import MIB

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

WISCONSIN_SEED = 20
WISCONSIN_SHARES = {
    # hospital: (share of the malignant tumours, share of the benign ones)
    "hospital-a": (0.60, 0.30),
    "hospital-b": (0.28, 0.45),
    "hospital-c": (0.12, 0.25),
}

HEART_SOURCE = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
HEART_FILES = {
    "cleveland": (
        "processed.cleveland.data",
        "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    ),
    "budapest": (
        "processed.hungarian.data",
        "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    ),
    "zurich-basel": (
        "processed.switzerland.data",
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    ),
    "long-beach": ("processed.va.data", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
}
HEART_COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
    "slope", "ca", "thal", "num",
)  # fmt: skip

CREDIT_SOURCE = "https://archive.ics.uci.edu/static/public/350/data.csv"
CREDIT_FILE = (
    "taiwan_credit_default.csv",
    "023eb2c3ad9efd15e7869616fa50a0143f25223105c7069ba632431530afdb61",
)
CREDIT_SEED = 350
CREDIT_BANDS = (50_000.0, 200_000.0)
"""Upper ends of the lower and the middle band of credit limits, New Taiwan dollars."""
CREDIT_SHARES = {
    # bank: (share of the customers with low limits, with middle ones, with high ones)
    "consumer-bank": (0.75, 0.25, 0.05),
    "universal-bank": (0.23, 0.70, 0.75),
    "us-bank": (0.02, 0.05, 0.20),
}
CREDIT_COLUMNS = (
    "id", "limit_bal", "sex", "education", "marriage", "age", "pay_1", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6",
    "bill_amt1", "bill_amt2", "bill_amt3", "bill_amt4", "bill_amt5", "bill_amt6",
    "pay_amt1", "pay_amt2", "pay_amt3", "pay_amt4", "pay_amt5", "pay_amt6", "default_next_month",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One federation: its example directory, its members' countries, how each silo's data comes to be."""

    name: str
    title: str
    dataset: str
    silos: Mapping[str, str]
    coordinator_country: str
    provenance: str
    write_data: Callable[[Mapping[str, Path], DataSource], None]
    source: Mapping[str, object]
    """How a worker's configuration describes the file, but for its path."""
    refused_purpose: str
    published: bool = False
    """Whether its data is a file that others publish, and not a part of this program."""

    @property
    def directory(self) -> Path:
        """Where run.yaml, the app and the policies lie."""
        return EXAMPLES / self.name


@dataclass(frozen=True)
class DataSource:
    """Where a scenario may take its data from: a directory of the user's, or the place it is published."""

    directory: Path | None = None
    url: str | None = None


def write_wisconsin(paths: Mapping[str, Path], _: DataSource) -> None:
    """Split scikit-learn's breast-cancer table among three hospitals, unevenly and by class, seeded.

    Each tumour goes to a hospital with the probabilities of WISCONSIN_SHARES for its class: a referral centre with
    mostly malignant cases, a general hospital, a small screening clinic with mostly benign ones.
    """
    import numpy as np  # noqa: PLC0415
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415

    table = load_breast_cancer(as_frame=True).frame
    table.columns = [name.replace(" ", "_") for name in table.columns]
    table["malignant"] = 1 - table.pop("target")
    generator = np.random.default_rng(WISCONSIN_SEED)
    draws = generator.random(len(table))
    malignant = table["malignant"].to_numpy() == 1
    edges = np.cumsum(np.array(list(WISCONSIN_SHARES.values())), axis=0)
    chosen = np.where(malignant, np.searchsorted(edges[:, 0], draws), np.searchsorted(edges[:, 1], draws))
    for index, name in enumerate(WISCONSIN_SHARES):
        table[chosen == index].to_csv(paths[name], index=False)


def write_heart(paths: Mapping[str, Path], source: DataSource) -> None:
    """Take the four centres' files from the user's directory, or download them; each must have its pinned SHA-256.

    Raises UsageError for a missing file, ConcordatError for another sum, UnreachableError where the download fails.
    """
    for name, pinned in HEART_FILES.items():
        url = f"{(source.url or HEART_SOURCE).rstrip('/')}/{pinned[0]}"
        paths[name].write_bytes(_pinned(source, pinned, url, HEART_PUBLISHED))


def write_credit(paths: Mapping[str, Path], source: DataSource) -> None:
    """Deal the UCI table "default of credit card clients" out to three banks, by credit limit, seeded.

    The table is of one bank and has no natural silos: each customer goes to a bank with the probabilities of
    CREDIT_SHARES for the band of the customer's limit. Raises as write_heart does.
    """
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    content = _pinned(source, CREDIT_FILE, source.url or CREDIT_SOURCE, CREDIT_PUBLISHED)
    table = pd.read_csv(io.BytesIO(content))
    table.columns = pd.Index(CREDIT_COLUMNS)
    draws = np.random.default_rng(CREDIT_SEED).random(len(table))
    bands = np.searchsorted(CREDIT_BANDS, table["limit_bal"].to_numpy(dtype=float))
    edges = np.cumsum(np.array(list(CREDIT_SHARES.values())), axis=0)
    chosen = sum((draws >= edge[bands]).astype(int) for edge in edges[:-1])
    for index, name in enumerate(CREDIT_SHARES):
        table[chosen == index].to_csv(paths[name], index=False)


@dataclass(frozen=True)
class Published:
    """A data set as its publisher names it, and the size of the largest of its files in bytes."""

    name: str
    largest: int


HEART_PUBLISHED = Published("Heart Disease (id 45)", MIB)
CREDIT_PUBLISHED = Published("Default of Credit Card Clients (id 350)", 4 * MIB)


def _pinned(source: DataSource, pinned: tuple[str, str], url: str, published: Published) -> bytes:
    """A file from the user's directory, or downloaded, that has its pinned SHA-256; raises ConcordatError."""
    name, expected = pinned
    if source.directory is not None:
        content = read_limited(source.directory / name, published.largest)
    else:
        content = _download(url, published)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ConcordatError(
            f"{name} has SHA-256 {found}, expected {expected}",
            advice="it is not the published file; nothing was trained on it",
        )
    return content


def _download(url: str, published: Published) -> bytes:
    try:
        with httpx.stream("GET", url, timeout=30.0, follow_redirects=True) as response:
            response.raise_for_status()
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > published.largest:
                    raise ConcordatError(f"{url} has more than {published.largest} bytes, expected a small table")
            return bytes(content)
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"{url} cannot be downloaded: {error}",
            advice=f"give --data-dir with the files of the UCI data set {published.name}",
        ) from None


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="breast_cancer",
            title="Malignant or benign: three hospitals",
            dataset="wisconsin",
            silos={"hospital-a": "DE", "hospital-b": "FR", "hospital-c": "NO"},
            coordinator_country="DE",
            provenance=(
                "Wisconsin breast cancer table (Wolberg, Street, Mangasarian 1995; in scikit-learn), split among three "
                f"hospitals by class with seed {WISCONSIN_SEED}"
            ),
            write_data=write_wisconsin,
            source={"format": "csv"},
            refused_purpose="POA",
        ),
        Scenario(
            name="heart",
            title="Coronary heart disease: four real centres",
            dataset="heart",
            silos={"cleveland": "US", "budapest": "HU", "zurich-basel": "CH", "long-beach": "US"},
            coordinator_country="CH",
            provenance=(
                "UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988, CC BY 4.0): the patients of each "
                "centre as published"
            ),
            write_data=write_heart,
            source={"format": "csv", "columns": list(HEART_COLUMNS), "missing": ["?"]},
            refused_purpose="POA",
            published=True,
        ),
        Scenario(
            name="credit",
            title="Default on a credit card: three banks, private for each customer",
            dataset="cards",
            silos={"consumer-bank": "DE", "universal-bank": "NL", "us-bank": "US"},
            coordinator_country="NL",
            provenance=(
                "UCI Default of Credit Card Clients (Yeh, Lien 2009, CC BY 4.0), the customers of one bank in Taiwan; "
                f"the three banks are made: split by credit limit with seed {CREDIT_SEED}"
            ),
            write_data=write_credit,
            source={"format": "csv"},
            refused_purpose="marketing",
            published=True,
        ),
    )
}


def scenario(name: str) -> Scenario:
    """A scenario by its name; raises UsageError."""
    found = SCENARIOS.get(name.replace("-", "_"))
    if found is None:
        raise UsageError(f"got example {name!r}, expected one of {', '.join(SCENARIOS)}")
    return found
