"""Whole jobs of the command line: launch a search, reproduce a row, examine the machine; what they print."""
