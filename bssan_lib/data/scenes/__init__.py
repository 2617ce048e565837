"""The built-in data: scenes drawn from a seed, with captions and the true box of every word. Notebook 01."""
