"""Diffusion: schedules, predictions, samplers and reproducible noise; no torch needed."""
