"""What survives a crash: the journal and the model versions."""
