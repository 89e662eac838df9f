"""Running a saved workflow without a screen: what the command `cryopares_workflow` does, on Scipion's own API."""
