"""The deterministic core: events in, state and effects out."""
