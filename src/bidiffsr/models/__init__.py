"""Model files and what ships: the container, packed and trained weights, published checkpoints."""
