"""Agents: their streams, what they report, and what is sent to them."""
