"""Federations inside one process: the same core and client runtime without sockets."""
