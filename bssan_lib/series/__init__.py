"""The notebook series as one run: execution by papermill, its report, its cost, the gallery of figures."""
