"""Ways into a guest that runs."""
