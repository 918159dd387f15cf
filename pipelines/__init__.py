"""The flow: rooms for planning, cohorts, search, results, registry, serving and deployment; the command line on top."""
