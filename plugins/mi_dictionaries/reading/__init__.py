"""Readers that trust nothing: declared sizes are checked before numbers are read, and nothing runs code of a file."""
