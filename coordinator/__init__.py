"""The coordinator: takes webhooks, decides what runs where, owns all forge credentials. See README.md for the map."""
