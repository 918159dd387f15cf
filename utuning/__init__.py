"""The method: frozen backbones, op sites, placement, tuners, the cohort engine, bundles and image data.

Needs torch and timm only; knows nothing of Ray, MLflow or a command line.
"""
