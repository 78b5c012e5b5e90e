"""Tests of a policy as data: requests, the decisions expected of them, and which rules they cover."""
