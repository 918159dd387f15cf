"""What a search will do and cost, before it starts: data and backbone once, trials, waves, seconds."""
