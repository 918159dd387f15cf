"""The verbs of the command line: a function each. Heavy packages are imported by the command that needs them."""
