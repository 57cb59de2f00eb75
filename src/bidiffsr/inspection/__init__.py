"""What happens inside a trained network, and comparisons to look at."""
