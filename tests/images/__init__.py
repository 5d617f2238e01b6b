"""Container images and tiny models made on the spot, cached outside the repository, without a registry."""
