"""The joint model, its encoders, the published peers, and checkpoints. Notebook 04."""
