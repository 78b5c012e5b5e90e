"""The worker: reads the data and trains. It has no network; all that reaches it or leaves it passes its gate."""
