"""What an experiment learns from: sources, splits, encoding, features and the checks of all that."""
