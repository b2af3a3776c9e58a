"""Memory plans, checks before a fine-tuning, and the demo."""
