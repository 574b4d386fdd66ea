"""What an A/B test says: the request log joined with outcomes. NumPy, SciPy and pyarrow; no worker imports it."""
