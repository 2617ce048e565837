"""Scores, recalls, phrase grounding, faithfulness, and stored results. Notebook 05."""
