"""The checks of each stage, in their order."""
