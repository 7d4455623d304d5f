"""What tools/report.py shows of runs: their figures, as a table and as a page."""
