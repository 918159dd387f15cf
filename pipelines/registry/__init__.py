"""Bundles in MLflow's model registry: versions, aliases, references, promotion."""
