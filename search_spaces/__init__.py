"""What to try: one YAML per data set, and the loader that checks it."""
