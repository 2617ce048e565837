"""The notebook series as one run: execution by papermill, report, cost, gallery of figures."""
