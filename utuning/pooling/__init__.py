"""How a pool holds many tuners, and how the rows of a batch find their own."""
