"""From a data source to the policy view."""
