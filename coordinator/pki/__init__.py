"""Who may speak to the coordinator: its own CA, hosts' certificates, invitations and people's tokens."""
