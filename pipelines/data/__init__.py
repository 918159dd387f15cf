"""From a space's dataset section to a prepared data set."""
