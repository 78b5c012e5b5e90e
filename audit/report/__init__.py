"""One page about one run that a regulator opens in a browser, and that verifies its own evidence there, offline."""
