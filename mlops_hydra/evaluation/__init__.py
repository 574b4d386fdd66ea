"""How good a trained model is: metrics, a baseline, latency, gates, plots. Nothing here loads or trains a model."""
