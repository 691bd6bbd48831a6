"""Keys and certificates of a federation: made by its authority, asked for at its sites."""
