"""Values and open stores that many tests start from."""
