"""Graphs that run without this package: one tuner on its backbone, or one backbone that takes tuners as inputs."""
