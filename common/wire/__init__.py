"""The only room that knows protobuf: values to bytes and back."""
