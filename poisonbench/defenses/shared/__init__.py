"""What several defenses use."""
