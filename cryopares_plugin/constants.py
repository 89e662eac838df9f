"""Names that the plugin's parts share."""

CRYOPARES = "cryopares"

# Shell words that open the environment of the core, such as `. /opt/cryopares/bin/activate`.
CRYOPARES_ENV_ACTIVATION = "CRYOPARES_ENV_ACTIVATION"
