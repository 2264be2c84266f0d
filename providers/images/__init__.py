"""Images of the coordinator's catalogue on this host: fetched, proven, unpacked once, kept within a quota."""
