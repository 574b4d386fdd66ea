"""Whether new data still looks like what a model was trained on: the reference profile, and drift."""
