"""What a GARM has, read from its database or its REST API, and what becomes of it here."""
