// Verifies first; shows only what verified.
try {
  show(factsOf(verifyEvidence(document.getElementById("evidence").textContent)));
  document.documentElement.setAttribute("data-verdict", "verified");
} catch (error) {
  document.documentElement.setAttribute("data-verdict", "failed");
  showFailure(error);
}
