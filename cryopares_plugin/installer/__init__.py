"""The plugin under the name `cryopares`, for `scipion installp` alone.

It takes the first package of a distribution, by alphabet, for the plugin; without this one that would be `cryopares_core`.
"""

from cryopares_plugin import Plugin, __version__

__all__ = ["Plugin", "__version__"]
