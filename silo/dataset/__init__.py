"""The data contract: what a dataset's owner says of it. Read by the worker and by people; it opens no data."""
