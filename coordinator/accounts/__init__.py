"""Who may do what: roles, passwords, sessions, and the chain that audit entries form."""
