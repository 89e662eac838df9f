"""What a training run left, read from its files, and pictures of it. Needs numpy and, to draw, matplotlib; nothing else."""
