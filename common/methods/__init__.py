"""What a configuration chooses by name: one frozen dataclass per row, with its parameters, bounds and arithmetic."""
