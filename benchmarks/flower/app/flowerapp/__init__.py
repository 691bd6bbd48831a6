"""A Flower app: rounds in which nobody trains, or one task per client."""
