"""Local refinement of poses and shifts against maps: Gauss-Newton steps on a few slices, with a grid search to fall back on."""
