"""Folding updates and turning sums into new versions."""
