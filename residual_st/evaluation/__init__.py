"""What models said, and how well."""
