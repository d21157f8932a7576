"""What is generated from the tables, and the compiled loop around it."""
