"""What is counted and measured for Prometheus: pure counting apart from reading and serving."""
