"""Maps, their projections and simulated particles."""
