"""Types, settings, keyed random numbers and parameter trees."""
