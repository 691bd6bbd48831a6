"""The writer around the core, the calls of clients, and what carries effects out."""
