"""The command line ``mi``."""
