"""What leaves the run."""
