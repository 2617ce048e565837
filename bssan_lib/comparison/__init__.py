"""Ablations, and tables that compare several runs. Notebook 07."""
