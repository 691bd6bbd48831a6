"""The client daemon."""
