"""What can be told of a training before it starts: the looks behind `cryopares_check`."""
