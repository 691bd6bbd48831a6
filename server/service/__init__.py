"""The coordinator behind gRPC."""
