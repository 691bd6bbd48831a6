"""The coordinator as seen from a client, over gRPC."""
