"""Measurements that print what they saw, with settings and machine. Nothing here asserts a time."""
