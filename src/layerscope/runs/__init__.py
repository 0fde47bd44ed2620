"""A run on disk: manifest, checkpoints, results, the state to resume from, the fixed batch."""
