"""Encoders of our own over arrays of numbers: a file and a row of `ENCODERS` for each; none of them imports torch."""
