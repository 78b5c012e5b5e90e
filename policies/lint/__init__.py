"""What is valid in a policy and yet probably not meant: rules that match nothing, documents that end, no bounds."""
