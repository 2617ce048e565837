"""Scores, recalls, phrase grounding, faithfulness, and records of results. Notebook 05."""
