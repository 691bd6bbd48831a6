"""Relations: how the copies of different members pull on each other."""
