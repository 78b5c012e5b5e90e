"""What may be wrong with an installation, found before it goes wrong; each finding with a remedy."""
