"""The command line: how it is read, and one file per mode."""
