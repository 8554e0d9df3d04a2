"""`make resilience`: what goes wrong in real life, done to the service under load, and measured."""
