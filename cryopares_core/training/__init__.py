"""Training: the Lightning module, half sets, checkpoints, metrics, progress. Knows no command lines."""
