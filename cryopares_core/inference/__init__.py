"""From a trained model and new particles to poses."""
