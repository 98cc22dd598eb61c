"""Tables, pictures and the page; no JAX."""
