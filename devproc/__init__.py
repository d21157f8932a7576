"""Device processes and the kit to write them."""
