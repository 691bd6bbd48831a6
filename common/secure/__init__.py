"""Masked sums: the ring they are made in, the cryptography, and one masked session as values in, values out.

It knows no network, file, configuration or clock. Nothing calls it yet.
"""
