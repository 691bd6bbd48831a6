"""A trained task as files that need no FedMTL."""
