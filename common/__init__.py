"""What coordinator and client must agree on, and nothing else."""
