"""Providers: how machines are made and destroyed. See README.md for the map."""
