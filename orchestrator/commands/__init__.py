"""The verbs of the command line: each module adds its parsers, and runs when its verb was given."""
