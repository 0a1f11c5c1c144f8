"""RQ's own tests, with the workers of this project in the places of RQ's: ``make upstream``."""
