"""W2R and O2W attention as pure functions, and the fast exact score of many pairs. Notebooks 02 and 03."""
