"""Names that the plugin's parts share."""

# Shell words that open the environment of the core, such as `. /opt/cryopares/bin/activate`; empty: the core is in
# Scipion's own environment.
CRYOPARES_ENV_ACTIVATION = "CRYOPARES_ENV_ACTIVATION"
