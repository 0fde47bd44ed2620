"""Record a training loop while it runs, without changing it."""
