"""What a client keeps on its own disk."""
