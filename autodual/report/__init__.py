"""What people read and look at: coverage, self-check, pictures, the demo."""
