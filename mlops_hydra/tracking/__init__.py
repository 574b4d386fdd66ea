"""What is remembered of a run: its lineage, its folder, its spool, and MLflow, which only this package talks to."""
