"""What a run may say of silo-level privacy, and what does not go together with it."""

from __future__ import annotations

import pytest

from federation.run import MEANS, load_run
from policies.errors import DocumentError

SILO = "privacy: {mode: silo_dp, clip_norm: 2.0, delta: 1.0e-5, noise_multiplier: 1}\n"


def text(run_text: str, privacy: str = SILO, strategy: str = "fedprox", mu: str = "mu: 0") -> str:
    return run_text.replace("name: fedprox", f"name: {strategy}").replace("mu: 0.1", mu) + privacy


@pytest.mark.parametrize("strategy", MEANS)
def test_a_mean_of_updates_may_be_private_for_silos(run_text: str, strategy: str) -> None:
    run = load_run(text(run_text, strategy=strategy)).model
    assert (run.silo_dp, run.example_dp) == (True, False)


@pytest.mark.parametrize("strategy", ["median", "trimmed_mean", "krum", "qfedavg"])
def test_what_is_no_mean_is_refused(run_text: str, strategy: str) -> None:
    with pytest.raises(DocumentError, match=f"no {strategy} with silo_dp"):
        load_run(text(run_text, strategy=strategy))


def test_packed_updates_cannot_be_masked(run_text: str) -> None:
    with pytest.raises(DocumentError, match="no updates with secure_aggregation"):
        load_run(run_text + "secure_aggregation: {threshold: 2}\nupdates: {encoding: int8}\n")


def test_a_mu_that_goes_by_a_loss_without_noise_is_refused(run_text: str) -> None:
    with pytest.raises(DocumentError, match="no adaptive mu with silo_dp"):
        load_run(text(run_text, mu="mu: 0.1\n  adaptive: {}"))


def test_adaptive_clipping_is_for_silos(run_text: str) -> None:
    rows = SILO.replace("silo_dp", "example_dp").replace("}", ", adaptive: {max_clip_norm: 4}}")
    with pytest.raises(DocumentError, match="no adaptive with example_dp"):
        load_run(text(run_text, rows))


def test_a_first_norm_above_the_largest_is_refused(run_text: str) -> None:
    with pytest.raises(DocumentError, match="at least clip_norm"):
        load_run(text(run_text, SILO.replace("}", ", adaptive: {max_clip_norm: 1}}")))


def test_the_largest_norm_is_what_a_policy_is_asked_about(run_text: str) -> None:
    privacy = load_run(text(run_text, SILO.replace("}", ", adaptive: {max_clip_norm: 4}}"))).model.privacy
    assert privacy is not None
    assert (privacy.clip_norm, privacy.largest_clip_norm) == (2.0, 4.0)
