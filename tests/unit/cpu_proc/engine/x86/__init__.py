"""What only the translator can get wrong."""
