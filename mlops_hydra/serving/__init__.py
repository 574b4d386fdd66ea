"""How what was packaged is used. A worker imports neither torch, mlflow, scipy nor pandas."""
