"""Runs: begun, gone on with, extended, exported, mended."""
