"""The REST API, in the shape of GARM's: thin, no SQL and no decisions."""
