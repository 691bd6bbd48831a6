"""One order carried out: the replica of the model, the work, what is handed in and what is kept."""
