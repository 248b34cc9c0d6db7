"""AlgZoo: networks of fewer than 1,500 parameters, and tools that take them apart exhaustively."""
