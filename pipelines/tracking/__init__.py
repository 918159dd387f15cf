"""Runs in MLflow's tracking store: opening it, finding runs, writing them, their artifacts."""
