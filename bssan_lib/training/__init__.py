"""Losses, optimisation, the trainer, and training over several processes. Notebook 04."""
