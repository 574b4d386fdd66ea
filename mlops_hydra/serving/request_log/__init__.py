"""What is kept of each prediction: a journal that workers write, Parquet that a recorder makes of it, a reader."""
