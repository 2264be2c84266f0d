"""Several coordinators on one PostgreSQL: beats, the planning lease, and what they tell each other."""
