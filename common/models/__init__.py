"""The multi-task model: encoder, heads and where their weights come from."""
