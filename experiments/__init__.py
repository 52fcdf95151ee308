"""The command line: thin adapters from flags to one frozen ``Config``."""
