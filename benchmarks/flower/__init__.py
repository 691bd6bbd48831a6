"""Flower, set up in an environment of its own and run as its documentation says."""
