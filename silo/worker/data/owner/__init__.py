"""What a data owner does before a worker is started: draft a contract, check data against it, make up a table."""
