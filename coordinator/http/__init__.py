"""HTTP: webhooks in, the runner API for guests. No decisions are made here."""
