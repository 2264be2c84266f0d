"""What is decided, without I/O: no clock, no randomness, no database. Time, ids and chance are passed in."""
